"""A captured webhook, shown again: inside the tolerance, later, at another door, around another body."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.support.api_calls import problem, signature, v2_event
from tests.support.bridge import WEBHOOK_SECRET
from tests.support.two_accounts import OWN_SECRET, Two, open_two

TIMES = 100


@pytest.fixture
async def two(database_url: str, redis_url: str) -> AsyncIterator[Two]:
    """A tenant of the shared account, one with its own, and nobody who sends webhooks by himself."""
    # Long enough that results are fetched because of a webhook, or not at all.
    async with open_two(database_url, redis_url, OWN_SECRET, reconcile_after_seconds=600) as opened:
        yield opened


class Captured:
    """A webhook as somebody on the way saw it: its bytes and its signature, and no secret."""

    def __init__(self, session_id: str, secret: str, at: int | None = None) -> None:
        self.body = json.dumps(v2_event(session_id)).encode()
        self.header = signature(self.body, secret=secret, at=at)

    async def show(self, two: Two, door: str = "", body: bytes | None = None) -> httpx2.Response:
        """Send it again, to a door, perhaps around another body."""
        headers = {"content-type": "application/json", "Eka-Webhook-Signature": self.header}
        path = f"/webhooks/eka/{door}" if door else "/webhooks/eka"
        return await two.bridge.api.post(path, content=body or self.body, headers=headers)


async def fetches(two: Two, session_id: str) -> int:
    """How often the session was asked for at the vendor."""
    return await two.bridge.calls(f"/voice/v1/sessions/{session_id}$", "GET")


async def test_a_hundred_replays_fetch_once(two: Two) -> None:
    await two.bridge.start_worker()
    session_id = await two.bridge.dictate()
    captured = Captured(session_id, WEBHOOK_SECRET)
    assert (await captured.show(two)).json() == {"status": "accepted"}
    await two.bridge.reach(session_id, "completed")
    fetched = await fetches(two, session_id)
    told = await asyncio.gather(*(captured.show(two) for _ in range(TIMES)))
    assert {(answer.status_code, answer.text) for answer in told} == {(200, '{"status":"duplicate"}')}
    await two.bridge.reach(await dictate_and_tell(two), "completed")  # the worker had time to do harm
    assert await fetches(two, session_id) == fetched
    documents = (await two.bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
    assert [document["version"] for document in documents] == [1]
    rows = await two.bridge.database.fetch(
        "SELECT repeats FROM webhook_events WHERE session_id = $1", session_id
    )
    assert [row["repeats"] for row in rows] == [TIMES]


async def dictate_and_tell(two: Two) -> str:
    """One more dictation, with its webhook."""
    session_id = await two.bridge.dictate()
    assert (await Captured(session_id, WEBHOOK_SECRET).show(two)).json() == {"status": "accepted"}
    return session_id


async def test_outside_of_the_tolerance_it_is_refused_whichever_side(two: Two) -> None:
    session_id = await two.bridge.dictate()
    for age in (-100_000, -360, 360, 100_000, 2**31):
        captured = Captured(session_id, WEBHOOK_SECRET, at=int(time.time()) - age)
        problem(await captured.show(two), 401, "signature_invalid")
    assert await two.recorded(session_id) == set()


async def test_around_another_body_it_is_refused(two: Two) -> None:
    mine, other = await two.bridge.dictate(), await two.bridge.dictate()
    captured = Captured(mine, WEBHOOK_SECRET)
    for body in (
        captured.body.replace(mine.encode(), other.encode()),
        captured.body.replace(b"completed", b"failed"),
        captured.body + b" x",
        captured.body[:-1],
        b"{}",
    ):
        problem(await captured.show(two, body=body), 401, "signature_invalid")
    assert await two.recorded(mine) == await two.recorded(other) == set()


async def test_at_another_account_s_door_it_is_refused(two: Two) -> None:
    shared, own = await two.bridge.dictate(), await two.dictate()
    for captured, door in (
        (Captured(shared, WEBHOOK_SECRET), two.tenant_id),
        (Captured(own, OWN_SECRET), ""),
        (Captured(own, OWN_SECRET), two.bridge.tenant_id),
        (Captured(shared, WEBHOOK_SECRET), two.bridge.tenant_id),
        (Captured(shared, WEBHOOK_SECRET), "default"),
        (Captured(own, OWN_SECRET), "ten_" + "0" * 24),
    ):
        problem(await captured.show(two, door), 401, "signature_invalid")
    assert await two.recorded(shared) == await two.recorded(own) == set()


async def test_signed_by_one_account_for_another_s_session_it_does_nothing(two: Two) -> None:
    shared, own = await two.bridge.dictate(), await two.dictate()
    before = await two.bridge.database.fetch("SELECT * FROM fetches ORDER BY id")
    sessions = await two.bridge.database.fetch("SELECT * FROM sessions ORDER BY id")
    for captured, door in (
        (Captured(shared, OWN_SECRET), two.tenant_id),
        (Captured(own, WEBHOOK_SECRET), ""),
    ):
        answer = await captured.show(two, door)
        assert (answer.status_code, answer.json()) == (200, {"status": "ignored"})
    assert await two.bridge.database.fetch("SELECT * FROM fetches ORDER BY id") == before
    assert await two.bridge.database.fetch("SELECT * FROM sessions ORDER BY id") == sessions


async def test_after_the_session_was_erased_it_leaves_no_trace(two: Two) -> None:
    session_id = await two.bridge.dictate()
    captured = Captured(session_id, WEBHOOK_SECRET)
    assert (await captured.show(two)).json() == {"status": "accepted"}
    assert (await two.bridge.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    assert (await captured.show(two)).json() == {"status": "ignored"}
    assert await two.recorded(session_id) == set()
