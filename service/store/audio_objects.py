"""Blocks of audio in an object store: each object is encrypted with a key of its own, which its row holds.

An object is written before its row commits, and deleted after its row is deleted: a row without an object
would be lost audio. The database notes every object whose row was deleted (audio_object_deletions). Nobody
can decrypt an object without its row.
"""

import os
import secrets
from collections.abc import AsyncIterator

from msgspec import Struct

from service.domain.audio.blocks import BlockObjects
from service.domain.ids import SessionId
from service.store.database import Database
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql

_KEY_BYTES = 32
_DELETED_AT_ONCE = 100
# An upload whose rows are not committed after this time never commits them.
_ORPHAN_SECONDS = 86_400.0


class StoredObject(Struct, frozen=True):
    """An object that was put: its name, the bytes in it before the encryption, and its key."""

    name: str
    size: int
    key: bytes


class AudioObjectRows:
    """Puts, reads and deletes objects, and knows which of them have a row."""

    def __init__(self, database: Database, objects: BlockObjects, hasher: Hasher) -> None:
        self._database = database
        self._objects = objects
        self._hasher = hasher

    async def put(self, session_id: SessionId, content: bytes, aad: str) -> StoredObject:
        """Encrypt a block and put it under a new name."""
        key = os.urandom(_KEY_BYTES)
        name = f"{await self._folder()}/{session_id}/{secrets.token_hex(16)}"
        await self._objects.put(name, Keyring((key,)).encrypt(content, aad))
        return StoredObject(name, len(content), key)

    async def get(self, name: str, key: bytes, aad: str) -> bytes:
        """Return the decrypted bytes of an object. Raises StoreUnavailable."""
        return Keyring((key,)).decrypt(await self._objects.get(name), aad)

    async def delete_due(self) -> bool:
        """Delete a batch of objects whose rows were deleted; return whether there may be more."""
        rows = await self._database.fetch(sql("audio_objects.due"), _DELETED_AT_ONCE)
        names = [row["name"] for row in rows]
        if names:
            await self._objects.delete(names)
            await self._database.execute(sql("audio_objects.deleted"), names)
        return len(names) == _DELETED_AT_ONCE

    async def delete_orphans(self) -> int:
        """Delete the objects older than a day that have no row; return how many."""
        count = 0
        async for names in self._old_names():
            rows = await self._database.fetch(sql("audio_objects.orphans"), names)
            orphans = [row["name"] for row in rows]
            if orphans:
                await self._objects.delete(orphans)
                count += len(orphans)
        return count

    async def _old_names(self) -> AsyncIterator[list[str]]:
        async for names in self._objects.older_than(await self._folder(), _ORPHAN_SECONDS):
            for start in range(0, len(names), _DELETED_AT_ONCE):
                yield names[start : start + _DELETED_AT_ONCE]

    async def _folder(self) -> str:
        """Return the installation's own folder: another installation in the same bucket has another one."""
        return (await self._hasher.hash("audio_store", b"folder")).hex()[:16]
