"""Chunks of audio. Concurrent uploads share one statement and one commit.

Chunks that the vendor does not take now are in held_audio.py.
"""

from collections.abc import Sequence

from asyncpg import Record

from service.concurrency.batching import Batcher
from service.domain.audio.models import ChunkClaim, ChunkPlan
from service.domain.errors import StoreUnavailable
from service.domain.ids import Account, Lease, SessionId, VendorSessionId
from service.store.database import Database
from service.store.queries import sql

_Stored = tuple[SessionId, int, str, VendorSessionId]


class AudioRows:
    """The domain's AudioStore over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
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

    async def record(self, chunk: ChunkPlan, vendor_id: VendorSessionId) -> bool:
        """Record that the vendor has the chunk; false if the session accepts no more audio, or was remade."""
        return await self._records((chunk.session_id, chunk.sequence, chunk.sha256, vendor_id))

    async def release(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Free the sequence number of a chunk that the vendor refused."""
        await self._database.execute(sql("audio.release"), session_id, sequence, lease)

    async def expire_lease(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Expire the lease of a chunk with an unknown outcome: the next upload may send it again."""
        await self._database.execute(sql("audio.expire_lease"), session_id, sequence, lease)

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
            [session_id for session_id, _, _, _ in stored],
            [sequence for _, sequence, _, _ in stored],
            [bytes.fromhex(sha256) for _, _, sha256, _ in stored],
            [vendor_id for _, _, _, vendor_id in stored],
        )
        recorded = {row["place"] for row in rows}
        return [place in recorded for place in range(1, len(stored) + 1)]


def _claim(row: Record) -> ChunkClaim:
    sha256 = row["chunk_sha256"]
    return ChunkClaim(
        vendor_id=VendorSessionId(row["vendor_id"]),
        account=Account(row["account"]),
        session_status=row["status"],
        upload=row["upload"],
        is_created=row["owed"] != "create" or row["is_held"],
        is_held=row["is_held"],
        keeps_audio=row["keeps_audio"],
        is_past=row["is_past"],
        is_erased=row["is_erased"],
        lease=row["lease"],
        stored_sha256=sha256.hex() if sha256 else None,
        stored_bytes=row["chunk_bytes"],
        stored_file_name=row["chunk_file_name"],
        state=row["chunk_status"] if row["chunk_status"] in {"held", "stored"} else None,
    )
