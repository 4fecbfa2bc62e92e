"""Chunks that come together share a statement and a commit; nobody learns or loses anything by it."""

from __future__ import annotations

import asyncio
import hashlib
from time import monotonic
from typing import Any

import asyncpg
import pytest

from service.bootstrap.container import open_stores
from service.domain.audio.models import ChunkClaim, ChunkPlan
from service.domain.errors import InvalidRequest
from service.domain.ids import SessionId, TenantId, VendorSessionId
from service.store.audio import AudioRows
from tests.support.bridge import make_settings
from tests.support.makers import NOTE, make_lease
from tests.support.store_house import House, new_tenant


class Watched:
    """The database; how many were asked for in each statement, and what failed. Shut, it holds them up."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.asked: list[int] = []
        self.failures: list[Exception] = []
        self.free = asyncio.Event()
        self.free.set()

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        self.asked.append(len(arguments[0]))
        await self.free.wait()
        try:
            return await self._database.fetch(query, *arguments)
        except Exception as failure:
            self.failures.append(failure)
            raise


def sha256(audio: bytes) -> str:
    return hashlib.sha256(audio).hexdigest()


def plan(
    tenant_id: TenantId, session_id: SessionId, sequence: int, audio: bytes = b"audio", **fields: Any
) -> ChunkPlan:
    values: dict[str, Any] = {
        "content_type": "audio/wav",
        "file_name": f"audio_{sequence}.wav",
        "lease": make_lease(),
        "lease_seconds": 60.0,
    }
    return ChunkPlan(
        tenant_id=tenant_id,
        session_id=session_id,
        sequence=sequence,
        sha256=sha256(audio),
        size=len(audio),
        **(values | fields),
    )


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Together:
    """Asks several at once: one is under way alone, the others are the next statement."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.watched = Watched(house.stores.database)
        self.rows = AudioRows(self.watched)  # type: ignore[arg-type]

    async def _all(self, first: Any, others: list[Any]) -> list[Any]:
        self.watched.asked.clear()
        self.watched.free.clear()
        tasks = [asyncio.create_task(first)]
        await turns()
        tasks += [asyncio.create_task(each) for each in others]
        await turns()
        self.watched.free.set()
        _, *answers = await asyncio.gather(*tasks, return_exceptions=True)
        return answers

    async def claim(self, *plans: ChunkPlan) -> list[Any]:
        nobody = plan(self.house.tenant_id, SessionId("ses_0"), 0)
        return await self._all(self.rows.claim(nobody), [self.rows.claim(each) for each in plans])

    async def record(self, *stored: tuple[SessionId, int, bytes]) -> list[Any]:
        def recorded(session_id: SessionId, sequence: int, audio: bytes) -> Any:
            chunk = self.house.chunk(session_id, sequence, audio)
            return self.rows.record(chunk, VendorSessionId(session_id))

        nobody = recorded(SessionId("ses_0"), 0, b"")
        others = [recorded(*each) for each in stored]
        return await self._all(nobody, others)


@pytest.fixture
def together(house: House) -> Together:
    return Together(house)


async def test_two_tenants_in_one_statement_never_see_each_other(house: House, together: Together) -> None:
    other = await new_tenant(house.stores, "other")
    mine, theirs = await house.create(), await house.create(tenant_id=other)
    assert await house.store_chunk(mine, 5, b"mine")
    me = house.tenant_id
    found = await together.claim(
        plan(me, mine, 0),
        plan(other, mine, 1),
        plan(me, theirs, 0),
        plan(other, theirs, 1),
        plan(other, mine, 5, b"mine"),
        plan(me, mine, 2),
        plan(other, theirs, 5),
        plan(me, theirs, 7),
    )
    assert together.watched.asked == [1, 8]
    assert [claim is not None and claim.lease is not None for claim in found] == [
        *(True, False, False, True),
        *(False, True, True, False),
    ]
    assert [found[place] for place in (1, 2, 4, 7)] == [None] * 4
    rows = await house.connection.fetch(
        "SELECT session_id, tenant_id, sequence FROM chunks WHERE status = 'sending' ORDER BY 1, 3"
    )
    assert {tuple(row) for row in rows} == {
        *((mine, me, 0), (mine, me, 2)),
        *((theirs, other, 1), (theirs, other, 5)),
    }


async def test_each_learns_of_its_own_sequence(house: House, together: Together) -> None:
    sessions = [await house.create() for _ in range(3)]
    assert await house.store_chunk(sessions[1], 1, b"here")
    plans = [plan(house.tenant_id, each, at, b"%d" % at) for at in (2, 0, 1) for each in sessions]
    found: list[ChunkClaim] = await together.claim(*plans)
    for claim, asked in zip(found, plans, strict=True):
        is_there = (asked.session_id, asked.sequence) == (sessions[1], 1)
        assert claim.lease == (None if is_there else asked.lease)
        assert claim.stored_sha256 == (sha256(b"here") if is_there else None)
    wrong = (sessions[2], 2, b"other bytes")
    told = await together.record(
        (sessions[0], 1, b"1"), wrong, (sessions[0], 9, b"9"), (sessions[2], 0, b"0")
    )
    assert told == [True, False, False, True]
    assert together.watched.asked == [1, 4]
    assert await house.value("SELECT count(*) FROM chunks WHERE status = 'stored'") == 3
    statuses = await house.connection.fetch("SELECT id, status FROM sessions")
    assert {row["id"]: row["status"] for row in statuses} == dict.fromkeys(sessions, "recording")


async def test_a_sequence_that_is_asked_for_twice_at_once_is_given_once(
    house: House, together: Together
) -> None:
    session_id = await house.create()
    same = [plan(house.tenant_id, session_id, 0, audio) for audio in (b"a", b"b", b"a", b"c")]
    claims = await together.claim(*same, plan(house.tenant_id, session_id, 1))
    first, second, third, fourth, _ = claims
    assert (first.lease, third.lease) == (same[0].lease, same[2].lease)
    for refused in (second, fourth):
        assert (refused.lease, refused.stored_sha256) == (None, sha256(b"a"))
    assert together.watched.asked == [1, 2, 1, 1, 1]
    assert together.watched.failures == []
    told = await together.record(*((session_id, 0, audio) for audio in (b"b", b"a", b"a")))
    assert told == [False, True, True]


async def test_a_session_that_ends_meanwhile_takes_nothing_and_the_others_do(
    house: House, together: Together
) -> None:
    ended, going = await house.create(templates=[NOTE]), await house.create()
    for session_id in (ended, going):
        assert (await house.claim_chunk(session_id, 0, b"late")).lease is not None
    ending = asyncio.Event()

    async def end() -> None:
        async with house.stores.sessions.ending(house.tenant_id, ended) as unit:
            assert unit is not None
            await unit.begin(make_lease(), lease_seconds=60, reconcile_seconds=60)
            ending.set()
            await until_waited_for(house)

    end_task = asyncio.create_task(end())
    await ending.wait()
    told = await together.record((ended, 0, b"late"), (going, 0, b"late"))
    await end_task
    assert told == [False, True]
    late, early = await together.claim(plan(house.tenant_id, ended, 1), plan(house.tenant_id, going, 1))
    assert (late.lease, late.session_status) == (None, "processing")
    assert early.lease is not None
    statuses = await house.connection.fetch("SELECT status FROM chunks WHERE session_id = $1", ended)
    assert [row["status"] for row in statuses] == ["sending"]
    assert await house.value("SELECT status FROM sessions WHERE id = $1", ended) == "processing"


async def until_waited_for(house: House) -> None:
    """Until somebody waits for a lock that another holds."""
    deadline = monotonic() + 8
    waiting = """SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'"""
    while not await house.value(waiting):
        assert monotonic() < deadline, "nobody waits"
        await asyncio.sleep(0.01)


async def test_what_cannot_be_stored_spoils_no_other(house: House, together: Together) -> None:
    session_id = await house.create()
    bad = plan(house.tenant_id, session_id, 1, content_type="audio/\0")
    first, spoilt, last = await together.claim(
        plan(house.tenant_id, session_id, 0), bad, plan(house.tenant_id, session_id, 2)
    )
    assert isinstance(spoilt, InvalidRequest)
    assert first.lease is not None
    assert last.lease is not None
    assert together.watched.asked == [1, 3, 1, 1, 1]


async def test_batches_in_opposite_orders_never_wait_for_each_other_in_a_circle(
    database_url: str, house: House
) -> None:
    """Two processes claim and record chunks of the same sessions, in opposite orders, while some end."""
    count, seconds = 24, 1.0
    sessions = [await house.create() for _ in range(count)]
    until = monotonic() + seconds
    async with open_stores(make_settings(database_url, "redis://unused")) as other:
        watched = [Watched(stores.database) for stores in (house.stores, other) for _ in range(2)]

        async def hammer(place: int) -> None:
            rows, sequence = AudioRows(watched[place]), 0  # type: ignore[arg-type]
            order = sessions if place % 2 else sessions[::-1]
            while monotonic() < until:
                plans = [plan(house.tenant_id, session_id, sequence % 7) for session_id in order]
                await asyncio.gather(*(rows.claim(each) for each in plans))
                await asyncio.gather(*(rows.record(each, VendorSessionId(each.session_id)) for each in plans))
                sequence += 1

        async def end_some() -> None:
            for session_id in sessions[::3]:
                await house.begin_end(session_id)
                await asyncio.sleep(seconds / count)

        await asyncio.gather(*(hammer(place) for place in range(len(watched))), end_some())
        assert [failure for each in watched for failure in each.failures] == []
        assert max(size for each in watched for size in each.asked) >= count - 1
