"""Held audio: chunks that the vendor does not take now, kept until they are handed over."""

import time
from collections.abc import AsyncIterator

from service.domain.audio.models import Audio, AudioFormat, ChunkPlan, HeldChunk
from service.domain.errors import SessionEnded
from service.domain.ids import Lease, SessionId, TenantId, VendorSessionId
from service.store.audio_blocks import AudioBlockRows
from service.store.database import Database
from service.store.queries import sql

# The sums of kept audio are read again after this time; what this process adds meanwhile is counted here.
_SUMS_SECONDS = 1.0
# Every chunk of a session that keeps its audio asks for room, and such a session need not be precise.
_SUMS_OF_CONFIRMED_SECONDS = 10.0
# One tenant may use this part of the room for held audio.
_MAX_SHARE_OF_TENANT = 0.5
# Audio that the vendor has confirmed leaves the other half of the room to an outage.
_MAX_SHARE_OF_CONFIRMED = 0.5


class HeldAudioRows:
    """The domain's AudioHold and HeldAudioStore over PostgreSQL."""

    def __init__(self, database: Database, blocks: AudioBlockRows, *, max_held_bytes: int) -> None:
        """`max_held_bytes` limits the held audio of all tenants; one tenant may use half of it."""
        self._database = database
        self._blocks = blocks
        self._max_held_bytes = max_held_bytes
        self._sums: dict[TenantId, tuple[float, int, int]] = {}

    async def has_room(self, tenant_id: TenantId, size: int, *, is_confirmed: bool = False) -> bool:
        """Return whether so many more bytes may be held; the sums are at most ten seconds old."""
        read_at, of_tenant, in_all = self._sums.get(tenant_id, (0.0, 0, 0))
        now = time.monotonic()
        if now - read_at > (_SUMS_OF_CONFIRMED_SECONDS if is_confirmed else _SUMS_SECONDS):
            read_at = now
            of_tenant, in_all = await self._blocks.kept_bytes(tenant_id)
        of_tenant, in_all = of_tenant + size, in_all + size
        self._sums[tenant_id] = (read_at, of_tenant, in_all)
        room = self._max_held_bytes * (_MAX_SHARE_OF_CONFIRMED if is_confirmed else 1)
        return in_all <= room and of_tenant <= room * _MAX_SHARE_OF_TENANT

    async def record_kept(self, chunk: ChunkPlan, vendor_id: VendorSessionId, audio: Audio) -> bool:
        """Record that the vendor has the chunk, and store its bytes; false as AudioRows.record."""
        async with self._database.transaction() as connection:
            # First, because it locks the session, as every transaction does before it writes blocks.
            recorded = await connection.fetchrow(
                sql("audio.record"),
                [chunk.session_id],
                [chunk.sequence],
                [bytes.fromhex(chunk.sha256)],
                [vendor_id],
            )
            if recorded is None:
                return False
            await self._blocks.write(connection, chunk.tenant_id, chunk.session_id, chunk.sequence, audio)
        return True

    async def hold(self, chunk: ChunkPlan, audio: Audio, *, due_seconds: float) -> bool:
        """Store a chunk's bytes, encrypted, and make the handover due; false if the lease was lost."""
        async with self._database.transaction() as connection:
            session = await connection.fetchrow(sql("held_audio.lock_session"), chunk.session_id)
            if session is None or session["status"] not in {"created", "recording"}:
                raise SessionEnded("the session was ended while this chunk was being uploaded")
            held = await connection.fetchrow(
                sql("held_audio.hold"), chunk.session_id, chunk.sequence, chunk.lease, due_seconds
            )
            if held is None:
                return False
            await self._blocks.write(connection, chunk.tenant_id, chunk.session_id, chunk.sequence, audio)
        return True

    async def next_held(self, session_id: SessionId, lease: Lease) -> HeldChunk | None:
        """Return the first held chunk of a session; None if there is none or the lease was lost."""
        row = await self._database.fetchrow(sql("held_audio.next_held"), session_id, lease)
        if row is None:
            return None
        return HeldChunk(
            session_id=session_id,
            sequence=row["sequence"],
            sha256=row["sha256"].hex(),
            size=row["bytes"],
            audio_format=AudioFormat(
                media_type=row["content_type"], extension=row["file_name"].rpartition(".")[2]
            ),
            file_name=row["file_name"],
        )

    def open_held(self, chunk: HeldChunk) -> Audio:
        """Return the bytes of a held chunk, of which one block at a time is in memory."""
        return _HeldAudio(self._blocks, chunk)

    async def record_handed_over(self, chunk: HeldChunk, lease: Lease, *, is_stored: bool) -> bool:
        """Record what became of a held chunk, and delete the bytes of a stored one unless they are kept."""
        status = "stored" if is_stored else "refused"
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql("held_audio.record_handed_over"), chunk.session_id, chunk.sequence, lease, status
            )
            if row is not None and is_stored:
                await self._blocks.delete(connection, chunk.session_id, chunk.sequence)
        return row is not None

    async def finish_handover(self, session_id: SessionId, lease: Lease) -> bool:
        """End the handover of a session; false if more of its audio is held."""
        async with self._database.transaction() as connection:
            # The lock comes first: a statement does not see a chunk that was held after its snapshot.
            if await connection.fetchrow(sql("sessions.lock_pending_call"), session_id, lease) is None:
                return False
            if await connection.fetchrow(sql("held_audio.has_held"), session_id) is not None:
                return False
            await connection.execute(sql("sessions.finish_handover"), session_id)
        return True


class _HeldAudio:
    """The domain's Audio over the blocks of a held chunk."""

    def __init__(self, blocks: AudioBlockRows, chunk: HeldChunk) -> None:
        self._blocks = blocks
        self._chunk = chunk
        self.size = chunk.size
        self.sha256 = chunk.sha256

    def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the start."""
        return self._blocks.read(self._chunk.session_id, self._chunk.sequence)
