"""The bytes of kept audio: rows of at most 1 MiB, each encrypted for itself."""

from collections.abc import AsyncIterator

from service.domain.audio.models import Audio
from service.domain.ids import SessionId, TenantId
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql

BLOCK_BYTES = 1_048_576


def block_aad(block_id: str) -> str:
    """Return the AAD that binds a block of audio to its session, sequence and place."""
    return f"audio_block:{block_id}"


class AudioBlockRows:
    """Writes, reads and deletes the blocks of chunks."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def write(
        self,
        connection: LentConnection,
        tenant_id: TenantId,
        session_id: SessionId,
        sequence: int,
        audio: Audio,
    ) -> None:
        """Store a chunk's bytes in the caller's transaction, of which one block at a time is in memory."""
        number = 0
        async for block in _blocks(audio):
            block_id = f"{session_id}:{sequence}:{number}"
            await connection.execute(
                sql("audio_blocks.insert"),
                block_id,
                session_id,
                tenant_id,
                sequence,
                number,
                len(block),
                self._keyring.encrypt(block, block_aad(block_id)),
            )
            number += 1

    async def read(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        """Yield the blocks of a chunk in order."""
        number = 0
        while True:
            row = await self._database.fetchrow(sql("audio_blocks.read"), session_id, sequence, number)
            if row is None:
                return
            yield self._keyring.decrypt(row["data_sealed"], block_aad(row["id"]))
            number += 1

    async def delete(self, connection: LentConnection, session_id: SessionId, sequence: int) -> None:
        """Delete the bytes of a chunk in the caller's transaction, unless its session keeps them."""
        await connection.execute(sql("audio_blocks.delete_of_chunk"), session_id, sequence)

    async def kept_bytes(self, tenant_id: TenantId) -> tuple[int, int]:
        """Return how many bytes are kept: of one tenant, and in all."""
        row = await self._database.fetchrow(sql("audio_blocks.kept_bytes"), tenant_id)
        return (row["of_tenant"], row["in_all"]) if row else (0, 0)


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
