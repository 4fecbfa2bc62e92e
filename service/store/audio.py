"""Chunks of audio. Concurrent uploads share one statement and one commit.

The bytes of held chunks are in rows of at most 1 MiB, each encrypted for itself.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from asyncpg import Record

from service.concurrency.batching import Batcher
from service.domain.audio.models import Audio, AudioFormat, ChunkClaim, ChunkPlan, HeldChunk
from service.domain.errors import SessionEnded, StoreUnavailable
from service.domain.ids import Account, Lease, SessionId, TenantId
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql

_Stored = tuple[SessionId, int, str]

BLOCK_BYTES = 1_048_576
# The sums of kept audio are read again after this time; what this process adds meanwhile is counted here.
_SUMS_SECONDS = 1.0
# One tenant may use this part of the room for held audio.
_MAX_SHARE_OF_TENANT = 0.5


def block_aad(block_id: str) -> str:
    """Return the AAD that binds a block of audio to its session, sequence and place."""
    return f"audio_block:{block_id}"


class AudioRows:
    """The domain's AudioStore and HeldAudioStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring, *, max_held_bytes: int) -> None:
        """`max_held_bytes` limits the held audio of all tenants; one tenant may use half of it."""
        self._database = database
        self._keyring = keyring
        self._max_held_bytes = max_held_bytes
        self._sums: dict[TenantId, tuple[float, int, int]] = {}
        self._claims = Batcher(
            self._claim_all,
            unavailable=StoreUnavailable,
            conflict_key=lambda chunk: (chunk.session_id, chunk.sequence),
        )
        self._records = Batcher(
            self._record_all, unavailable=StoreUnavailable, conflict_key=lambda stored: stored[:2]
        )

    async def claim(self, chunk: ChunkPlan) -> ChunkClaim | None:
        """Lease a chunk's sequence number; None if the tenant has no such session."""
        return await self._claims(chunk)

    async def record(self, session_id: SessionId, sequence: int, sha256: str) -> bool:
        """Record that the vendor has the chunk; false if the session accepts no more audio."""
        return await self._records((session_id, sequence, sha256))

    async def release(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Free the sequence number of a chunk that the vendor refused."""
        await self._database.execute(sql("audio.release"), session_id, sequence, lease)

    async def expire_lease(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Expire the lease of a chunk with an unknown outcome: the next upload may send it again."""
        await self._database.execute(sql("audio.expire_lease"), session_id, sequence, lease)

    async def has_room(self, tenant_id: TenantId, size: int) -> bool:
        """Return whether so many more bytes may be held; the sums are up to a second old."""
        read_at, of_tenant, in_all = self._sums.get(tenant_id, (0.0, 0, 0))
        now = time.monotonic()
        if now - read_at > _SUMS_SECONDS:
            row = await self._database.fetchrow(sql("audio.kept_bytes"), tenant_id)
            read_at, of_tenant, in_all = now, row["of_tenant"] if row else 0, row["in_all"] if row else 0
        of_tenant, in_all = of_tenant + size, in_all + size
        self._sums[tenant_id] = (read_at, of_tenant, in_all)
        return in_all <= self._max_held_bytes and of_tenant <= self._max_held_bytes * _MAX_SHARE_OF_TENANT

    async def hold(self, chunk: ChunkPlan, audio: Audio, *, due_seconds: float) -> bool:
        """Store a chunk's bytes, encrypted, and make the handover due; false if the lease was lost."""
        async with self._database.transaction() as connection:
            session = await connection.fetchrow(sql("audio.lock_session"), chunk.session_id)
            if session is None or session["status"] not in {"created", "recording"}:
                raise SessionEnded("the session was ended while this chunk was being uploaded")
            held = await connection.fetchrow(
                sql("audio.hold"), chunk.session_id, chunk.sequence, chunk.lease, due_seconds
            )
            if held is None:
                return False
            number = 0
            chunk_key = (chunk.session_id, chunk.tenant_id, chunk.sequence)
            async for block in _blocks(audio):
                await self._insert_block(connection, *chunk_key, number, block)
                number += 1
        return True

    async def insert_blocks(
        self,
        connection: LentConnection,
        session_id: SessionId,
        tenant_id: TenantId,
        sequence: int,
        data: bytes,
    ) -> None:
        """Store the bytes of a chunk that are in memory."""
        for number, start in enumerate(range(0, len(data), BLOCK_BYTES)):
            block = data[start : start + BLOCK_BYTES]
            await self._insert_block(connection, session_id, tenant_id, sequence, number, block)

    async def _insert_block(
        self,
        connection: LentConnection,
        session_id: SessionId,
        tenant_id: TenantId,
        sequence: int,
        number: int,
        block: bytes,
    ) -> None:
        block_id = f"{session_id}:{sequence}:{number}"
        await connection.execute(
            sql("audio.insert_block"),
            block_id,
            session_id,
            tenant_id,
            sequence,
            number,
            len(block),
            self._keyring.encrypt(block, block_aad(block_id)),
        )

    async def next_held(self, session_id: SessionId, lease: Lease) -> HeldChunk | None:
        """Return the first held chunk of a session; None if there is none or the lease was lost."""
        row = await self._database.fetchrow(sql("audio.next_held"), session_id, lease)
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
        return _HeldAudio(chunk, lambda: self.read_blocks(chunk.session_id, chunk.sequence))

    async def read_blocks(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a held chunk, decrypted, a block at a time."""
        number = 0
        while True:
            row = await self._database.fetchrow(sql("audio.block"), session_id, sequence, number)
            if row is None:
                return
            yield self._keyring.decrypt(row["data_sealed"], block_aad(row["id"]))
            number += 1

    async def record_handed_over(self, chunk: HeldChunk, lease: Lease, *, is_stored: bool) -> bool:
        """Record what became of a held chunk, and delete the bytes of a stored one."""
        status = "stored" if is_stored else "refused"
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql("audio.record_handed_over"), chunk.session_id, chunk.sequence, lease, status
            )
            if row is not None and is_stored:
                await connection.execute(sql("audio.delete_blocks"), chunk.session_id, chunk.sequence)
        return row is not None

    async def finish_handover(self, session_id: SessionId, lease: Lease) -> bool:
        """End the handover of a session; false if more of its audio is held."""
        async with self._database.transaction() as connection:
            # The lock comes first: a statement does not see a chunk that was held after its snapshot.
            if await connection.fetchrow(sql("sessions.lock_pending_call"), session_id, lease) is None:
                return False
            if await connection.fetchrow(sql("audio.has_held"), session_id) is not None:
                return False
            await connection.execute(sql("sessions.finish_handover"), session_id)
        return True

    async def _claim_all(self, chunks: Sequence[ChunkPlan]) -> list[ChunkClaim | None]:
        rows = await self._database.fetch(
            sql("audio.claim"),
            [chunk.session_id for chunk in chunks],
            [chunk.tenant_id for chunk in chunks],
            [chunk.sequence for chunk in chunks],
            [bytes.fromhex(chunk.sha256) for chunk in chunks],
            [chunk.size for chunk in chunks],
            [chunk.content_type for chunk in chunks],
            [chunk.file_name for chunk in chunks],
            [chunk.lease for chunk in chunks],
            [chunk.lease_seconds for chunk in chunks],
        )
        found = {row["place"]: _claim(row) for row in rows}
        return [found.get(place) for place in range(1, len(chunks) + 1)]

    async def _record_all(self, stored: Sequence[_Stored]) -> list[bool]:
        rows = await self._database.fetch(
            sql("audio.record"),
            [session_id for session_id, _, _ in stored],
            [sequence for _, sequence, _ in stored],
            [bytes.fromhex(sha256) for _, _, sha256 in stored],
        )
        recorded = {row["place"] for row in rows}
        return [place in recorded for place in range(1, len(stored) + 1)]


def _claim(row: Record) -> ChunkClaim:
    sha256 = row["chunk_sha256"]
    return ChunkClaim(
        account=Account(row["account"]),
        session_status=row["status"],
        upload=row["upload"],
        is_created=row["owed"] != "create" or row["is_held"],
        is_held=row["is_held"],
        is_past=row["is_past"],
        is_erased=row["is_erased"],
        lease=row["lease"],
        stored_sha256=sha256.hex() if sha256 else None,
        stored_bytes=row["chunk_bytes"],
        stored_file_name=row["chunk_file_name"],
        state=row["chunk_status"] if row["chunk_status"] in {"held", "stored"} else None,
    )


class _HeldAudio:
    """The domain's Audio over the blocks of a held chunk."""

    def __init__(self, chunk: HeldChunk, read: Callable[[], AsyncIterator[bytes]]) -> None:
        self.read = read
        self.size = chunk.size
        self.sha256 = chunk.sha256


async def _blocks(audio: Audio) -> AsyncIterator[bytes]:
    """Yield the bytes of a chunk in blocks of BLOCK_BYTES; the last may be shorter."""
    pending = bytearray()
    async for piece in audio.read():
        pending += piece
        while len(pending) >= BLOCK_BYTES:
            yield bytes(pending[:BLOCK_BYTES])
            del pending[:BLOCK_BYTES]
    if pending:
        yield bytes(pending)
