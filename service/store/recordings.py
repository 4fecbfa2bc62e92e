"""Whole recordings: received in one transaction with their session, cut into held chunks by a worker."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from uuid import uuid4

from service.domain.audio.models import Audio
from service.domain.idempotency import KeyedCall, Reservation
from service.domain.ids import UNFILTERED, Lease, SessionId, TemplateId, TenantId
from service.domain.recordings.models import CutChunk, StoredRecording
from service.domain.sessions.models import SessionPlan
from service.store.audio_blocks import RECORDING_SEQUENCE, AudioBlockRows
from service.store.database import Database, LentConnection
from service.store.idempotency import IdempotencyKeys
from service.store.queries import sql
from service.store.sessions import SessionRows

# The answer follows the commit at once; if its process dies in between, the key is not waited for.
_ANSWER_SECONDS = 0.0


class RecordingRows:
    """The domain's RecordingStore and UncutRecordings over PostgreSQL."""

    def __init__(
        self,
        database: Database,
        *,
        blocks: AudioBlockRows,
        sessions: SessionRows,
        keys: IdempotencyKeys,
        max_writers: int,
    ) -> None:
        """At most `max_writers` are written at once: a large one occupies a connection for seconds."""
        self._database = database
        self._blocks = blocks
        self._sessions = sessions
        self._keys = keys
        self._writers = asyncio.Semaphore(max_writers)

    async def find(self, call: KeyedCall) -> Reservation | None:
        """Return the earlier call with this Idempotency-Key, if there was one."""
        hashed = await self._keys.hashed(call)
        async with self._database.transaction() as connection:
            return await self._keys.find(connection, hashed)

    async def insert(
        self,
        plan: SessionPlan,
        audio: Audio,
        *,
        seconds: float,
        call: KeyedCall | None,
        life_seconds: float,
        reconcile_seconds: float,
    ) -> Reservation | None:
        """Insert the ended session, the recording and all its bytes in one transaction.

        Returns None, or the earlier call with the same Idempotency-Key if there is one by now; then nothing
        is inserted.
        """
        lease = Lease(uuid4())
        session = await self._sessions.insert_arguments(
            plan, lease, lease_seconds=0.0, life_seconds=life_seconds
        )
        hashed = await self._keys.hashed(call) if call else None
        objects = await self._blocks.put_objects(plan.id, RECORDING_SEQUENCE, audio)
        try:
            async with self._writers, self._database.transaction() as connection:
                await connection.execute(sql("sessions.insert"), *session)
                await self._insert(connection, plan, audio, seconds, reconcile_seconds)
                content = audio if objects is None else objects
                await self._blocks.write(connection, plan.tenant_id, plan.id, RECORDING_SEQUENCE, content)
                if hashed is not None:
                    # Last, because a call with the same key waits from here to the commit.
                    reserved = await self._keys.reserve(connection, hashed, plan.id, lease, _ANSWER_SECONDS)
                    if reserved.kind != "new":
                        raise _KeyTaken(reserved)
        except _KeyTaken as taken:
            return taken.reservation
        return None

    async def _insert(
        self,
        connection: LentConnection,
        plan: SessionPlan,
        audio: Audio,
        seconds: float,
        reconcile_seconds: float,
    ) -> None:
        await connection.execute(
            sql("recordings.insert"),
            plan.id,
            plan.tenant_id,
            audio.size,
            seconds,
            bytes.fromhex(audio.sha256),
        )
        await connection.execute(sql("recordings.end_session"), plan.id, plan.tenant_id)
        templates = [TemplateId(name) for name in plan.templates] or [UNFILTERED]
        await connection.execute(
            sql("results.schedule"), plan.tenant_id, plan.id, templates, reconcile_seconds
        )

    async def finish(self, call: KeyedCall, session_id: SessionId, answer: bytes) -> None:
        """Store the answer for every repeat of a call."""
        hashed = await self._keys.hashed(call)
        async with self._database.connection() as connection:
            await self._keys.finish(connection, hashed, session_id, answer)

    async def uncut(self, session_id: SessionId, lease: Lease) -> StoredRecording | None:
        """Return the session's recording; None if it has none, it is cut, or the lease was lost."""
        row = await self._database.fetchrow(sql("recordings.uncut"), session_id, lease)
        if row is None:
            return None
        return StoredRecording(
            session_id=SessionId(row["session_id"]),
            tenant_id=TenantId(row["tenant_id"]),
            size=row["bytes"],
            model=row["model"],
            seconds=row["seconds"],
        )

    def read(self, recording: StoredRecording) -> AsyncIterator[bytes]:
        """Yield the recording's bytes, one block at a time."""
        return self._blocks.read(recording.session_id, RECORDING_SEQUENCE)

    async def record_seconds(self, recording: StoredRecording, lease: Lease, seconds: float) -> bool:
        """Record the length of a recording that came in pieces; false if the lease was lost."""
        async with self._database.transaction() as connection:
            if not await _is_leased(connection, recording, lease):
                return False
            await connection.execute(sql("recordings.record_seconds"), recording.session_id, seconds)
        return True

    async def delete_chunks(self, recording: StoredRecording, lease: Lease) -> bool:
        """Delete the chunks of an earlier try to cut the recording; false if the lease was lost."""
        async with self._database.transaction() as connection:
            if not await _is_leased(connection, recording, lease):
                return False
            await connection.execute(sql("recordings.delete_chunk_blocks"), recording.session_id)
            await connection.execute(sql("recordings.delete_chunks"), recording.session_id)
        return True

    async def hold_chunk(
        self, recording: StoredRecording, lease: Lease, chunk: CutChunk, file_name: str
    ) -> bool:
        """Hold one chunk of the recording for the vendor; false if the lease was lost."""
        audio = _Bytes(chunk.data)
        objects = await self._blocks.put_objects(recording.session_id, chunk.sequence, audio)
        async with self._database.transaction() as connection:
            if not await _is_leased(connection, recording, lease):
                return False
            await connection.execute(
                sql("recordings.hold_chunk"),
                recording.session_id,
                chunk.sequence,
                recording.tenant_id,
                bytes.fromhex(audio.sha256),
                audio.size,
                chunk.format.media_type,
                file_name,
            )
            content = audio if objects is None else objects
            await self._blocks.write(
                connection, recording.tenant_id, recording.session_id, chunk.sequence, content
            )
        return True

    async def record_cut(self, recording: StoredRecording, lease: Lease, chunks: int) -> bool:
        """Record that the recording has so many chunks, all of them held; false if the lease was lost."""
        async with self._database.transaction() as connection:
            if not await _is_leased(connection, recording, lease):
                return False
            await connection.execute(sql("recordings.record_cut"), recording.session_id, chunks)
        return True


class _KeyTaken(Exception):
    """Another call with the same Idempotency-Key was committed; rolls the transaction back."""

    def __init__(self, reservation: Reservation) -> None:
        super().__init__(reservation.kind)
        self.reservation = reservation


class _Bytes:
    """The domain's Audio over bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).hexdigest()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes."""
        yield self._data


async def _is_leased(connection: LentConnection, recording: StoredRecording, lease: Lease) -> bool:
    """Lock the session; false if its pending call is not leased to the caller any more."""
    row = await connection.fetchrow(sql("sessions.lock_pending_call"), recording.session_id, lease)
    return row is not None
