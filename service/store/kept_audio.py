"""Kept audio: the chunks of a session whose bytes are still in the store."""

from collections.abc import AsyncIterator, Awaitable, Callable

from service.domain.audio.models import KeptChunk
from service.domain.errors import NotFound, SessionErased
from service.domain.ids import SessionId, TenantId
from service.store.audio_blocks import BLOCK_BYTES, AudioBlockRows
from service.store.database import Database
from service.store.queries import sql

# A chunk in memory: its row, and its two entries in an archive's directory.
_CHUNK_BYTES = 1024


async def _reserve_nothing(_: int) -> None:
    """A command of the operator has its process for itself."""


class KeptAudioRows:
    """The domain's KeptAudioStore over PostgreSQL."""

    def __init__(
        self,
        database: Database,
        blocks: AudioBlockRows,
        reserve: Callable[[int], Awaitable[None]] = _reserve_nothing,
    ) -> None:
        """`reserve` is called before chunks are read, with the number of bytes that they take in memory."""
        self._database = database
        self._blocks = blocks
        self._reserve = reserve

    async def chunks(self, tenant_id: TenantId, session_id: SessionId) -> list[KeptChunk]:
        """Return the kept chunks in order. Raises NotFound, SessionErased, or Overloaded from `reserve`."""
        extent = await self._database.fetchrow(sql("kept_audio.extent"), tenant_id, session_id)
        if extent is None:
            raise NotFound("no such session")
        if extent["is_erased"]:
            raise SessionErased("the session was erased")
        if not extent["chunks"]:
            return []
        await self._reserve(extent["chunks"] * _CHUNK_BYTES + BLOCK_BYTES)
        rows = await self._database.fetch(sql("kept_audio.chunks"), tenant_id, session_id)
        return [
            KeptChunk(
                sequence=row["sequence"],
                file_name=row["file_name"],
                media_type=row["content_type"],
                size=row["bytes"],
                # Nobody has hashed a recording that came in pieces.
                sha256=row["sha256"].hex() if row["sha256"] else "",
            )
            for row in rows
        ]

    def read(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a chunk, of which one block at a time is in memory."""
        return self._blocks.read(session_id, sequence)
