"""The vendor's circuit breaker: open while it is down or limits us, and one account's trouble is its own."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tests.support.api_calls import call_arrived, clear_faults, problem, until
from tests.support.bridge import Bridge
from tests.support.two_accounts import Two, open_two

# A Retry-After counts from when we read it, the journal from when the vendor got the call: no earlier, then.
_CLOCK_SECONDS = 0.05


async def calls_of(bridge: Bridge, path_regex: str, method: str) -> list[dict[str, Any]]:
    answer = await bridge.vendor.get("/_control/calls", params={"path_regex": path_regex, "method": method})
    calls: list[dict[str, Any]] = answer.json()
    return calls


async def is_open(bridge: Bridge) -> bool:
    """Whether the default account's circuit is open, in the process that was started last."""
    metrics = (await bridge.api.get("/metrics")).text
    return 'ekabridge_vendor_circuits_open{account="default"} 1.0' in metrics


async def test_a_vendor_that_is_down_is_left_alone_and_found_again_by_itself(bridge: Bridge) -> None:
    made = [(await bridge.create())["id"] for _ in range(36)]
    sessions, others = made[:6], made[6:]
    await bridge.fault("^/voice/v1/sessions", times=None, status=500)
    for answer in await asyncio.gather(*(bridge.put(each, 0) for each in sessions)):
        assert answer.json()["state"] == "held"
    before = await bridge.calls("^/voice/v1/sessions")
    change = {"languages": ["hi"]}
    refused = await asyncio.gather(
        *(bridge.api.patch(f"/v1/sessions/{each}", json=change) for each in others)
    )
    # Each of them would have called several times; now there are probes, of which few fit into any time.
    assert await bridge.calls("^/voice/v1/sessions") - before <= 8
    closed = [answer for answer in refused if answer.status_code == 503]
    assert len(closed) >= 24
    for answer in closed:
        assert "tried again" in problem(answer, 503, "vendor_unavailable")["detail"]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert await is_open(bridge)
    await clear_faults(bridge)

    async def is_back() -> bool:
        return (await bridge.api.patch(f"/v1/sessions/{others[0]}", json=change)).status_code == 200

    await until(is_back, seconds=60)
    assert (await bridge.put(others[0], 0)).json()["state"] == "stored"


async def test_one_session_over_which_the_vendor_breaks_closes_nothing_for_others(bridge: Bridge) -> None:
    poisoned, well = (await bridge.create())["id"], (await bridge.create())["id"]
    await bridge.fault(poisoned, times=None, status=500)
    for answer in await asyncio.gather(*(bridge.put(poisoned, n) for n in range(8))):
        assert answer.json()["state"] == "held"
    assert (await bridge.put(well, 0)).json()["state"] == "stored"


async def test_a_limit_is_kept_to_by_all_uploads(bridge: Bridge) -> None:
    limited = [(await bridge.create())["id"] for _ in range(3)]
    await bridge.fault("/audio/", times=3, status=429, headers={"Retry-After": "2"})
    sending = [asyncio.create_task(bridge.put(each, 0)) for each in limited]
    await until(partial(is_open, bridge))

    async def is_sent() -> bool:
        other = await bridge.create()
        return (await bridge.put(other["id"], 0)).json()["state"] == "stored"

    await until(is_sent)
    # An upload that waits for its limit wakes before the last limit is over, and is held then.
    answers = [answer.json()["state"] for answer in await asyncio.gather(*sending)]
    assert set(answers) <= {"stored", "held"}
    calls = await calls_of(bridge, "/audio/", "POST")
    first, later = calls[:3], calls[3:]
    assert [call["status"] for call in first] == [429] * 3
    assert [call["status"] for call in later] == [200] * (answers.count("stored") + 1)
    assert all(call["at"] >= first[-1]["at"] + 2 - _CLOCK_SECONDS for call in later)


async def test_a_limit_is_kept_to_by_all_fetches_and_none_is_given_up_for_it(bridge: Bridge) -> None:
    limit = {"times": 3, "status": 429, "headers": {"Retry-After": "2"}}
    await bridge.fault("^/voice/v1/sessions/", method="GET", **limit)
    sessions = [await bridge.dictate(1) for _ in range(6)]
    await bridge.start_worker()
    for session in sessions:
        await bridge.reach(session, "completed")
    calls = await calls_of(bridge, "^/voice/v1/sessions/", "GET")
    first = [call for call in calls if call["status"] == 429]
    # Those that were under way when the third was told are answered; then nothing is asked for two seconds.
    told = first[-1]["at"]
    held = [call for call in calls if told + 0.5 < call["at"] < told + 2 - _CLOCK_SECONDS]
    assert (len(first), held) == (3, [])
    # What was held back counts as no try: there are as many as the vendor saw.
    assert await bridge.database.fetchval("SELECT sum(attempts) FROM fetches") == len(calls)


async def test_fetches_of_a_vendor_that_is_down_wait_without_turning_in_circles(bridge: Bridge) -> None:
    sessions = [await bridge.dictate(1) for _ in range(12)]
    await bridge.fault("^/voice/v1/sessions/", method="GET", times=None, status=500)
    await bridge.start_worker()
    await call_arrived(bridge, "^/voice/v1/sessions/", "GET", count=10)
    await asyncio.gather(
        *(
            bridge.vendor.post(
                "/_control/webhooks/send", json={"session_id": each, "event": "v2rx.completed"}
            )
            for each in sessions
        )
    )
    await clear_faults(bridge)
    for session in sessions:
        await bridge.reach(session, "completed", seconds=60)
    attempts = await bridge.database.fetchval("SELECT sum(attempts) FROM fetches")
    assert attempts == await bridge.calls("^/voice/v1/sessions/", "GET")


async def test_one_account_that_floods_a_vendor_that_hangs_slows_no_other(
    database_url: str, redis_url: str
) -> None:
    async with open_two(database_url, redis_url, eka_max_concurrency=2) as two:
        await flood(two)


async def flood(two: Two) -> None:
    hospital = await two.start()
    await two.bridge.fault(f"{hospital}/audio", times=None, mode="hang")

    async def put(sequence: int) -> str:
        answer = await two.api.put(
            f"/v1/sessions/{hospital}/audio/{sequence}",
            content=b"audio",
            headers={"content-type": "audio/wav"},
        )
        return str(answer.json()["state"])

    flooding = [asyncio.create_task(put(sequence)) for sequence in range(40)]

    async def are_held() -> bool:
        return sum(each.done() and each.result() == "held" for each in flooding) >= 34

    await until(are_held)
    assert await two.bridge.calls(f"{hospital}/audio") == 2
    # Its own other calls have permits of their own, too.
    await two.start()
    assert await two.bridge.dictate(3)
    assert sum(not each.done() for each in flooding) >= 2
    for each in flooding:
        each.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    await clear_faults(two.bridge)
