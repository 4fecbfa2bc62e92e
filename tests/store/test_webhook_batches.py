"""Webhooks that come together share a statement and a commit; what becomes of them does not tell."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import msgspec
import pytest

from service.domain.errors import InvalidRequest, StoreUnavailable
from service.domain.ids import Account
from service.domain.webhooks import Received
from service.store.webhook_events import WebhookEventRows
from tests.support.makers import LETTER, NOTE
from tests.support.sessions_in_store import erase, partial
from tests.support.store_house import House

TOLD = [
    ("ended", "completed"),
    ("ended", "completed"),
    ("early", "expired"),
    ("called", "completed"),
    ("ended", "failed"),
    ("partial", "completed"),
    ("early", "expired"),
    ("settled", "partial"),
    ("erased", "completed"),
    ("partial", "completed"),
    ("foreign", "completed"),
    ("unknown", "completed"),
    ("early", "completed"),
    ("ended", "completed"),
    ("started", "started"),
    ("unknown", "started"),
    ("erased", "completed"),
]
LEFT = [
    """SELECT account, kind, phase, shape, body_bytes, repeats FROM webhook_events WHERE session_id = $1
       ORDER BY account, kind, phase""",
    """SELECT template_id, status, outcome, hinted, attempts, next_at <= now() AS due FROM fetches
       WHERE session_id = $1 ORDER BY template_id""",
]


class Watched:
    """The database, and how it was asked: each event alone, or several together."""

    def __init__(self, house: House) -> None:
        self._database = house.stores.database
        self.asked: list[str] = []
        self.failures: list[Exception] = []

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        self.asked.append("alone")
        return await self._database.fetchrow(query, *arguments)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        self.asked.append(f"{len(arguments[0])} together")
        try:
            return await self._database.fetch(query, *arguments)
        except asyncpg.PostgresError as failure:
            self.failures.append(failure)
            raise


def watch(house: House) -> Watched:
    watched = Watched(house)
    house.stores = msgspec.structs.replace(house.stores, webhook_events=WebhookEventRows(watched))
    return watched


async def stage(house: House) -> dict[str, str]:
    """Sessions in every state that an event can find."""
    called = await house.end(NOTE)
    assert len(await house.claim_fetches(called)) == 1
    erased = await house.end(NOTE)
    await erase(house, erased)
    return {
        "ended": await house.end(NOTE, LETTER, reconcile_seconds=120),
        "started": await house.end(NOTE, reconcile_seconds=120),
        "early": await house.create(templates=[NOTE]),
        "called": called,
        "settled": await house.finish(NOTE),
        "partial": await partial(house),
        "erased": erased,
        "foreign": await house.end(NOTE, reconcile_seconds=120),
        "unknown": f"ses_{random.randbytes(8).hex()}",
    }


def hear(house: House, sessions: dict[str, str], state: str, kind: str) -> Any:
    account = {"account": Account("ten_other")} if state == "foreign" else {}
    return house.hear(sessions[state], kind, **account)


def as_state(received: Received, sessions: dict[str, str]) -> Any:
    """The answer with the state of the session that it names, instead of the session's id."""
    states = {session_id: state for state, session_id in sessions.items()} | {None: None}
    return states[received.session_id], msgspec.structs.replace(received, session_id=None)


async def left(house: House, sessions: dict[str, str]) -> dict[str, Any]:
    """What the rows of each session say, without ids and times."""
    return {
        state: [await house.connection.fetch(query, session_id) for query in LEFT]
        for state, session_id in sessions.items()
    }


async def test_together_they_do_what_they_do_one_after_the_other(house):
    apart, together = await stage(house), await stage(house)
    one_by_one = [await hear(house, apart, *event) for event in TOLD]
    watched = watch(house)
    _, *at_once = await asyncio.gather(
        house.hear("ses_first"), *(hear(house, together, *event) for event in TOLD)
    )
    assert [as_state(each, together) for each in at_once] == [as_state(each, apart) for each in one_by_one]
    assert await left(house, together) == await left(house, apart)
    # The first goes at once; second kinds of events of one session, three here, come after the batch.
    assert watched.asked == ["alone", "9 together", "alone", "alone", "alone"]


async def test_nobody_waits_for_company(house):
    watched = watch(house)
    session_id = await house.end(NOTE, reconcile_seconds=120)
    assert (await house.hear(session_id)).is_first
    repeats = await asyncio.gather(*(house.hear(session_id) for _ in range(50)))
    assert not any(each.is_first for each in repeats)
    assert not (await house.hear(session_id)).is_first
    assert watched.asked == ["alone", "alone", "1 together", "alone"]
    assert await house.value("SELECT repeats FROM webhook_events") == 51


async def test_who_holds_a_session_keeps_only_its_events_waiting(house):
    held, free, other = [await house.end(NOTE, reconcile_seconds=120) for _ in range(3)]
    async with house.connection.transaction():
        await house.connection.execute("SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", held)
        waiting = [asyncio.create_task(house.hear(held, kind)) for kind in ("completed", "failed")]
        async with asyncio.timeout(5):
            heard = await asyncio.gather(house.hear(free), house.hear(other))
        assert [(each.phase, each.is_first, each.due) for each in heard] == [("ended", True, 1)] * 2
        assert not any(task.done() for task in waiting)
    assert [(each.is_first, each.due) for each in await asyncio.gather(*waiting)] == [(True, 1)] * 2


async def test_an_event_that_the_database_refuses_costs_no_other_its_place(house):
    good = [await house.end(NOTE, reconcile_seconds=120) for _ in range(3)]
    first, *heard, refused = await asyncio.gather(
        house.hear("ses_first"), *map(house.hear, good), house.hear("ses_\0"), return_exceptions=True
    )
    assert first.is_first
    assert [(each.is_first, each.due) for each in heard] == [(True, 1)] * 3
    assert isinstance(refused, InvalidRequest)


async def test_each_learns_that_the_database_goes_away(house):
    session_id = await house.end(NOTE)
    watched = watch(house)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with house.connection.transaction(), asyncio.timeout(10):
        await house.connection.execute("LOCK TABLE webhook_events")
        hearing = asyncio.gather(
            *(house.hear(each) for each in ("ses_first", session_id, session_id, "ses_other")),
            return_exceptions=True,
        )
        while await house.value(f"SELECT count(*) {others}") < 2:
            await house.connection.execute("SELECT pg_stat_clear_snapshot()")
        await house.connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        heard = await hearing
    assert [type(each) for each in heard] == [StoreUnavailable] * 4
    assert watched.asked == ["alone", "2 together"]
    assert await house.value("SELECT count(*) FROM webhook_events") == 0


@pytest.mark.parametrize("kinds", [("completed",), ("completed", "partial", "failed")])
async def test_batches_of_several_processes_do_not_wait_in_a_circle(house, kinds):
    sessions = [await house.end(NOTE, LETTER, reconcile_seconds=120) for _ in range(12)]
    watched = Watched(house)
    processes = [WebhookEventRows(watched) for _ in range(4)]
    jitter = random.Random(1)

    async def tell(process: WebhookEventRows, session_id: str, kind: str) -> Any:
        return await process.receive(
            Account("default"), session_id=session_id, kind=kind, shape="v2", body_sha256=b"", body_bytes=1,
            is_ending=True,
        )  # fmt: skip

    for turn in range(8):
        await asyncio.gather(
            *(
                tell(process, session_id, kinds[number % len(kinds)])
                for number, process in enumerate(processes)
                for session_id in (f"ses_{turn}{number}", *jitter.sample(sessions, len(sessions)))
            )
        )
        await house.connection.execute("DELETE FROM webhook_events")
    assert watched.failures == []
    assert watched.asked.count("12 together") == 8 * len(processes)
