"""Held audio in an object store: encrypted before it leaves, written before its row, deleted after it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from service.domain.errors import SessionEnded, StoreUnavailable
from service.domain.ids import SessionId
from service.jobs.audio_objects import AudioObjectCleanup
from service.store.audio_blocks import BLOCK_BYTES, AudioBlockRows
from service.store.audio_objects import AudioObjectRows
from service.store.encryption import DecryptionError
from service.store.held_audio import HeldAudioRows
from tests.support.encrypted_rows import NEW, OLD
from tests.support.makers import BytesAudio, make_lease
from tests.support.reencryption import open_house, reencrypt_all
from tests.support.store_house import House


class MemoryObjects:
    """The domain's BlockObjects in memory; every object that existed before a test's `age` is old."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.objects: dict[str, bytes] = {}
        self.old: set[str] = set()
        self.is_away = False
        # What a reader of the database saw while an object was written or deleted.
        self.rows_at_put: list[int] = []
        self.rows_at_delete: list[int] = []

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("the audio store does not answer")

    async def _rows(self) -> int:
        return await self._house.connection.fetchval("SELECT count(*) FROM audio_blocks")

    async def put(self, name: str, content: bytes) -> None:
        self._check()
        self.rows_at_put.append(await self._rows())
        self.objects[name] = content

    async def get(self, name: str) -> bytes:
        self._check()
        return self.objects[name]

    async def delete(self, names: Sequence[str]) -> None:
        self._check()
        self.rows_at_delete.append(await self._rows())
        for name in names:
            self.objects.pop(name, None)

    async def older_than(self, folder: str, seconds: float) -> AsyncIterator[list[str]]:
        self._check()
        assert seconds == 86_400
        yield [name for name in self.objects if name in self.old and name.startswith(f"{folder}/")]

    def age(self) -> None:
        self.old = set(self.objects)


class Kept:
    """The store's objects over MemoryObjects."""

    def __init__(self, house: House) -> None:
        self.house = house
        stores = house.stores
        self.memory = MemoryObjects(house)
        self.objects = AudioObjectRows(stores.database, self.memory, stores.hasher)
        self.blocks = AudioBlockRows(stores.database, stores.keyring, self.objects)
        self.held = HeldAudioRows(stores.database, self.blocks, max_held_bytes=10**9)
        self.cleanup = AudioObjectCleanup(leases=stores.leases, objects=self.objects)

    async def hold(self, session_id: SessionId, sequence: int, sound: bytes) -> bool:
        lease = make_lease()
        await self.house.claim_chunk(session_id, sequence, sound, lease=lease)
        plan = self.house.chunk(session_id, sequence, sound, lease=lease)
        return await self.held.hold(plan, BytesAudio(sound), due_seconds=0)

    async def read(self, session_id: SessionId, sequence: int) -> bytes:
        return b"".join([block async for block in self.blocks.read(session_id, sequence)])

    async def hand_over(self, session_id: SessionId) -> None:
        lease = make_lease()
        await self.house.connection.execute("UPDATE sessions SET owed_lease = $1", lease)
        chunk = await self.held.next_held(session_id, lease)
        assert chunk is not None
        assert await self.held.record_handed_over(chunk, lease, is_stored=True)


@pytest.fixture
def kept(house: House) -> Kept:
    return Kept(house)


async def test_blocks_are_objects_encrypted_with_keys_of_their_own(house: House, kept: Kept) -> None:
    session_id, sound = await house.create(), os.urandom(BLOCK_BYTES + 5)
    assert await kept.hold(session_id, 0, sound)
    assert kept.memory.rows_at_put == [0, 0]
    assert await kept.read(session_id, 0) == sound
    assert all(sound[:64] not in each for each in kept.memory.objects.values())
    rows = await house.connection.fetch(
        "SELECT bytes, object_name, length(data_sealed) AS sealed FROM audio_blocks"
    )
    assert sorted(row["bytes"] for row in rows) == [5, BLOCK_BYTES]
    assert {row["object_name"] for row in rows} == set(kept.memory.objects)
    assert all(row["sealed"] < 100 for row in rows)
    assert await kept.blocks.kept_bytes(house.tenant_id) == (len(sound), len(sound))


async def test_an_object_opens_in_its_own_place_only(house: House, kept: Kept) -> None:
    session_id = await house.create()
    for sequence in range(2):
        assert await kept.hold(session_id, sequence, b"sound %d" % sequence)
    first, second = kept.memory.objects
    memory = kept.memory.objects
    memory[first], memory[second] = memory[second], memory[first]
    with pytest.raises(DecryptionError):
        await kept.read(session_id, 0)


async def test_a_store_that_is_away_leaves_no_row(house: House, kept: Kept) -> None:
    session_id = await house.create()
    kept.memory.is_away = True
    with pytest.raises(StoreUnavailable):
        await kept.hold(session_id, 0, b"sound")
    assert await house.value("SELECT count(*) FROM audio_blocks") == 0
    assert await house.value("SELECT status FROM chunks") == "sending"


async def test_objects_go_after_their_rows_and_again_if_the_store_was_away(house: House, kept: Kept) -> None:
    session_id = await house.create()
    assert await kept.hold(session_id, 0, os.urandom(BLOCK_BYTES + 5))
    await kept.cleanup.once()
    assert len(kept.memory.objects) == 2
    await kept.hand_over(session_id)
    assert len(kept.memory.objects) == 2
    kept.memory.is_away = True
    with pytest.raises(StoreUnavailable):
        await kept.cleanup.once()
    kept.memory.is_away = False
    await kept.cleanup.once()
    assert kept.memory.objects == {}
    assert kept.memory.rows_at_delete == [0]
    assert await house.value("SELECT count(*) FROM audio_object_deletions") == 0


@pytest.mark.parametrize("way", ["erased", "deleted", "purged"])
async def test_objects_go_however_their_rows_go(house: House, kept: Kept, way: str) -> None:
    session_id = await house.create()
    assert await kept.hold(session_id, 0, b"sound")
    if way == "erased":
        async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
            assert unit is not None
            await unit.erase(house.actor.name)  # type: ignore[arg-type]
    elif way == "deleted":
        await house.connection.execute("DELETE FROM sessions")
    else:
        await house.connection.execute(
            "UPDATE sessions SET status = 'failed', settled_at = now() - interval '8 days', owed = NULL, "
            "owed_next_at = NULL"
        )
        await house.connection.execute("UPDATE audio_blocks SET kept_at = now() - interval '8 days'")
        assert await kept.held.purge(7 * 86_400, 10) == 1
    await kept.cleanup.once()
    assert kept.memory.objects == {}


async def test_an_object_without_a_row_goes_after_a_day_and_others_stay(house: House, kept: Kept) -> None:
    session_id = await house.create()
    assert await kept.hold(session_id, 0, b"kept")
    (own,) = kept.memory.objects
    await house.connection.execute("UPDATE sessions SET status = 'processing'")
    with pytest.raises(SessionEnded):
        # Its object is written, and then there is no row for it.
        await kept.held.hold(house.chunk(session_id, 1, b"late"), BytesAudio(b"late"), due_seconds=0)
    kept.memory.objects["another-installation/ses_1/a"] = b"theirs"
    kept.memory.age()
    recent = os.urandom(8).hex()
    kept.memory.objects[f"{own.partition('/')[0]}/{session_id}/{recent}"] = b"being uploaded"
    assert len(kept.memory.objects) == 4
    await kept.cleanup.once()
    assert len(kept.memory.objects) == 3
    assert own in kept.memory.objects
    assert "another-installation/ses_1/a" in kept.memory.objects


async def test_blocks_in_rows_stay_readable_and_objects_need_their_store(house: House, kept: Kept) -> None:
    session_id = await house.create()
    await house.hold_chunk(session_id, 0, b"in a row")
    assert await kept.hold(session_id, 1, b"an object")
    assert await kept.read(session_id, 0) == b"in a row"
    with pytest.raises(StoreUnavailable, match="AUDIO_STORE_URL"):
        [block async for block in house.stores.audio_blocks.read(session_id, 1)]


async def test_new_encryption_keys_rewrite_rows_and_no_object(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with open_house(database_url, connection, OLD) as house:
        before = Kept(house)
        session_id = await house.create()
        assert await before.hold(session_id, 0, b"sound")
        objects, tenant = dict(before.memory.objects), house.tenant_id
    async with open_house(database_url, connection, NEW, OLD, tenant=tenant) as house:
        await reencrypt_all(house.stores)
    async with open_house(database_url, connection, NEW, tenant=tenant) as house:
        after = Kept(house)
        after.memory.objects = dict(objects)
        assert await after.read(session_id, 0) == b"sound"
