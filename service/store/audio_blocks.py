"""The bytes of kept audio: encrypted blocks of at most 1 MiB, in rows or in an object store."""

from collections.abc import AsyncIterator, Sequence

from service.domain.audio.models import Audio
from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId, TenantId
from service.store.audio_objects import AudioObjectRows, StoredObject
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql

BLOCK_BYTES = 1_048_576
# The place of a whole recording among the sequences of its session's chunks.
RECORDING_SEQUENCE = -1


def block_aad(block_id: str) -> str:
    """Return the AAD that binds a block of audio to its session, sequence and place."""
    return f"audio_block:{block_id}"


class AudioBlockRows:
    """Writes, reads and deletes the blocks of chunks and recordings."""

    def __init__(self, database: Database, keyring: Keyring, objects: AudioObjectRows | None = None) -> None:
        """With `objects` new blocks go to the object store; blocks in rows stay readable."""
        self._database = database
        self._keyring = keyring
        self._objects = objects

    async def put_objects(
        self, session_id: SessionId, sequence: int, audio: Audio
    ) -> Sequence[StoredObject] | None:
        """Put a chunk's bytes into the object store, before a transaction writes their rows.

        None if there is no object store, so that `write` stores the bytes in the rows.
        """
        if self._objects is None:
            return None
        put: list[StoredObject] = []
        async for block in in_blocks(audio.read()):
            aad = block_aad(_block_id(session_id, sequence, len(put)))
            put.append(await self._objects.put(session_id, block, aad))
        return put

    async def write(
        self,
        connection: LentConnection,
        tenant_id: TenantId,
        session_id: SessionId,
        sequence: int,
        audio: Audio | Sequence[StoredObject],
    ) -> None:
        """Write a chunk's rows in the caller's transaction: with its bytes, or the names of its objects."""
        number = 0
        async for size, content, name in _contents(audio):
            place = (session_id, tenant_id, sequence, number)
            await self._insert(connection, place, size, content, name)
            number += 1

    async def write_block(
        self,
        connection: LentConnection,
        tenant_id: TenantId,
        session_id: SessionId,
        sequence: int,
        number: int,
        block: bytes,
    ) -> None:
        """Write one block in the caller's transaction, with its object before its row."""
        content, name = block, None
        if self._objects is not None:
            aad = block_aad(_block_id(session_id, sequence, number))
            put = await self._objects.put(session_id, block, aad)
            content, name = put.key, put.name
        place = (session_id, tenant_id, sequence, number)
        await self._insert(connection, place, len(block), content, name)

    async def _insert(
        self,
        connection: LentConnection,
        place: tuple[SessionId, TenantId, int, int],
        size: int,
        content: bytes,
        name: str | None,
    ) -> None:
        block_id = _block_id(place[0], place[2], place[3])
        sealed = self._keyring.encrypt(content, block_aad(block_id))
        await connection.execute(sql("audio_blocks.insert"), block_id, *place, size, sealed, name)

    async def read(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        """Yield the blocks of a chunk in order. Raises StoreUnavailable."""
        number = 0
        while True:
            row = await self._database.fetchrow(sql("audio_blocks.read"), session_id, sequence, number)
            if row is None:
                return
            aad = block_aad(row["id"])
            content = self._keyring.decrypt(row["data_sealed"], aad)
            name = row["object_name"]
            yield content if name is None else await self._read_object(name, content, aad)
            number += 1

    async def _read_object(self, name: str, key: bytes, aad: str) -> bytes:
        if self._objects is None:
            raise StoreUnavailable("the audio is in an object store, and AUDIO_STORE_URL is not set here")
        return await self._objects.get(name, key, aad)

    async def delete(self, connection: LentConnection, session_id: SessionId, sequence: int) -> None:
        """Delete the bytes of a chunk in the caller's transaction, unless its session keeps them."""
        await connection.execute(sql("audio_blocks.delete_of_chunk"), session_id, sequence)

    async def discard(self, connection: LentConnection, session_id: SessionId, sequence: int) -> None:
        """Delete bytes that nobody wants, even if their session keeps its audio."""
        await connection.execute(sql("audio_blocks.discard"), session_id, sequence)

    async def purge(self, kept_seconds: float, limit: int) -> int:
        """Delete up to `limit` blocks of sessions that have had their ending for so long; return how many."""
        return len(await self._database.fetch(sql("audio_blocks.purge"), kept_seconds, limit))

    async def kept_bytes(self, tenant_id: TenantId) -> tuple[int, int]:
        """Return how many bytes are kept: of one tenant, and in all."""
        row = await self._database.fetchrow(sql("audio_blocks.kept_bytes"), tenant_id)
        return (row["of_tenant"], row["in_all"]) if row else (0, 0)


def _block_id(session_id: SessionId, sequence: int, number: int) -> str:
    return f"{session_id}:{sequence}:{number}"


async def _contents(audio: Audio | Sequence[StoredObject]) -> AsyncIterator[tuple[int, bytes, str | None]]:
    """Yield of each block its size, the bytes to encrypt in its row, and the name of its object."""
    if isinstance(audio, Sequence):
        for each in audio:
            yield each.size, each.key, each.name
        return
    async for block in in_blocks(audio.read()):
        yield len(block), block, None


async def in_blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield bytes in blocks of BLOCK_BYTES; the last may be shorter."""
    pending = bytearray()
    async for piece in pieces:
        pending += piece
        while len(pending) >= BLOCK_BYTES:
            yield bytes(pending[:BLOCK_BYTES])
            del pending[:BLOCK_BYTES]
    if pending:
        yield bytes(pending)
