"""GET /v1/ledger: the counts of one tenant, at one moment."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.api_calls import problem, until
from tests.support.bridge import Bridge, add_tenant

NOTHING = {"ended": 0, "delivered": 0, "in_flight": 0, "dead": 0, "lost": 0}


async def ledger(bridge: Bridge, **params: str) -> dict[str, int]:
    answer = await bridge.api.get("/v1/ledger", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()
    assert found["ended"] == found["delivered"] + found["in_flight"] + found["dead"]
    return found


async def test_a_dictation_is_in_flight_and_then_delivered(bridge: Bridge) -> None:
    await bridge.add_destination()
    assert await ledger(bridge) == NOTHING
    await bridge.dictate()
    assert await ledger(bridge) == NOTHING | {"ended": 1, "in_flight": 1}
    await bridge.start_worker()

    async def is_delivered() -> bool:
        return await ledger(bridge) == NOTHING | {"ended": 1, "delivered": 1}

    await until(is_delivered)


async def test_a_refused_document_is_dead_until_it_is_retried(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 422}]})
    await bridge.start_worker()
    await bridge.dictate()

    async def is_dead() -> bool:
        return await ledger(bridge) == NOTHING | {"ended": 1, "dead": 1}

    await until(is_dead)
    (dead,) = (await bridge.api.get("/v1/deliveries?status=dead")).json()["items"]
    await bridge.api.post(f"/v1/deliveries/{dead['id']}/retry")

    async def is_delivered() -> bool:
        return await ledger(bridge) == NOTHING | {"ended": 1, "delivered": 1}

    await until(is_delivered)


async def test_only_ends_within_the_interval_are_counted(house: Bridge) -> None:
    session_id = await house.dictate()
    at = await house.database.fetchval("SELECT ended_at FROM sessions WHERE id = $1", session_id)
    second = timedelta(seconds=1)
    india = at.astimezone(tz=None).isoformat()
    before, after = (at - second).isoformat(), (at + second).isoformat()
    assert (await ledger(house, **{"from": at.isoformat(), "to": after}))["ended"] == 1
    assert (await ledger(house, **{"from": india}))["ended"] == 1
    assert (await ledger(house, **{"from": before, "to": at.isoformat()}))["ended"] == 0
    assert (await ledger(house, **{"from": after}))["ended"] == 0
    assert (await ledger(house, **{"from": at.isoformat(), "to": at.isoformat()}))["ended"] == 0


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": "2026-11-21T10:00:00Z", "to": "2026-11-21T09:59:59Z"}, "from"),
        ({"from": "2026-11-21T10:00:00"}, "from"),
        ({"to": "2026-11-21T10:00:00"}, "to"),
        ({"to": "yesterday"}, "to"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from"),
    ],
)
async def test_an_interval_that_is_none_is_refused(house: Bridge, params: dict[str, str], field: str) -> None:
    body = problem(await house.api.get("/v1/ledger", params=params), 400, "invalid_request")
    assert [each["field"] for each in body["errors"]] == [field]


async def test_other_tenants_sessions_are_not_counted(house: Bridge) -> None:
    await house.dictate()
    _, key = await add_tenant(house.settings, "stranger", "emr")
    answer = await house.api.get("/v1/ledger", headers={"authorization": f"Bearer {key}"})
    assert answer.json() == NOTHING


async def test_the_worker_shows_it_as_gauges(bridge: Bridge) -> None:
    session_id = await bridge.dictate()
    worker = await bridge.start_worker()
    await bridge.reach(session_id, "completed")

    async def is_shown() -> bool:
        text = (await bridge.api.get("/metrics")).text  # of this process, in which the worker runs too
        return 'ekabridge_ledger_sessions{standing="ended"} 1.0' in text

    await until(is_shown)
    text = (await bridge.api.get("/metrics")).text
    assert 'ekabridge_ledger_sessions{standing="lost"} 0.0' in text
    await worker.stop()
    assert "ekabridge_ledger_sessions{" not in (await bridge.api.get("/metrics")).text


async def test_it_holds_at_every_moment_of_many_dictations(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 503, "times": 4}]})
    await bridge.start_worker()
    dictating = asyncio.gather(*(bridge.dictate() for _ in range(8)))
    done = NOTHING | {"ended": 8, "delivered": 8}
    deadline = datetime.now(UTC) + timedelta(seconds=30)
    samples = 0
    while (found := await ledger(bridge)) != done:
        assert found["lost"] == 0
        assert datetime.now(UTC) < deadline, found
        samples += 1
    await dictating
    assert samples > 3
