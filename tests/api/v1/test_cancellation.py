"""Cancelling, through the protocol's door: nothing more is fetched or told, and the vendor learns of it."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import call_arrived, clear_faults, hook, until, v2_event
from tests.support.bridge import Bridge


async def cancel(house: Bridge, session_id: str) -> httpx2.Response:
    body = {"user_status": "cancelled", "processing_status": "cancelled"}
    return await house.api.patch(f"/voice/v1/sessions/{session_id}", json=body)


async def row_of(house: Bridge, session_id: str) -> Any:
    return await house.database.fetchrow("SELECT * FROM sessions WHERE id = $1", session_id)


async def is_paid(house: Bridge, session_id: str) -> bool:
    return (await row_of(house, session_id))["owed"] is None


async def calls(house: Bridge, session_id: str) -> int:
    return await house.calls(f"/voice/v1/sessions/{session_id}$", "PATCH")


@pytest.mark.parametrize("status", ["created", "recording", "processing"])
async def test_what_runs_is_cancelled_here_and_at_the_vendor(house: Bridge, status: str) -> None:
    await house.vendor_settings(processing_seconds=30)
    session_id = (await house.create())["id"]
    if status != "created":
        await house.put(session_id, 0)
    if status == "processing":
        await house.end(session_id)
    assert (await cancel(house, session_id)).status_code == 200
    await house.vendor_settings(processing_seconds=0.05)
    session = await house.session(session_id)
    assert (session["status"], session["completed_at"], session["error"]) == ("cancelled", None, None)
    assert (await house.seen(session_id))["status"] == "cancelled"
    assert await is_paid(house, session_id)
    pending = "SELECT 1 FROM fetches WHERE session_id = $1 AND status = 'pending'"
    assert await house.database.fetch(pending, session_id) == []
    timeline = (await house.api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
    assert timeline[-1]["type"] == "session.cancelled"

    assert (await cancel(house, session_id)).status_code == 200  # again does nothing
    assert await calls(house, session_id) == 1
    for answer in (await house.end(session_id), await house.put(session_id, 1)):
        assert (answer.status_code, answer.json()["code"]) == (409, "session_ended")


async def test_late_results_and_webhooks_of_it_do_nothing(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.fault("/sessions/[^/]+$", method="GET", delay_seconds=0.7, times=None)
    await bridge.start_worker()
    session_id = await bridge.dictate()
    await call_arrived(bridge, f"{session_id}$", "GET")
    assert (await cancel(bridge, session_id)).status_code == 200
    asked = await bridge.calls(f"{session_id}", "GET")
    for kind in ("completed", "partial", "failed", "expired"):
        await hook(bridge, v2_event(session_id, f"session.{kind}"))
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))
    assert (await bridge.session(session_id))["status"] == "cancelled"
    assert await bridge.calls(f"{session_id}", "GET") == asked
    for table in ("documents", "events", "deliveries"):
        assert await bridge.database.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("status", ["completed", "partial", "failed", "expired"])
async def test_what_has_its_ending_cannot_be_cancelled(house: Bridge, status: str) -> None:
    session_id = (await house.create())["id"]
    await house.database.execute(
        "UPDATE sessions SET status = $2, settled_at = now() WHERE id = $1", session_id, status
    )
    assert (await cancel(house, session_id)).status_code == 409
    assert (await house.session(session_id))["status"] == status
    assert await calls(house, session_id) == 0


@pytest.mark.parametrize("status", [400, 404, 409, 410])
async def test_a_vendor_that_has_nothing_to_cancel_is_told(house: Bridge, status: int) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}$", method="PATCH", status=status, times=None)
    assert (await cancel(house, session_id)).status_code == 200
    assert await is_paid(house, session_id)
    assert await calls(house, session_id) == 1


@pytest.mark.parametrize("fault", [{"status": 503}, {"mode": "reset"}, {"status": 403}])
async def test_a_vendor_that_is_away_is_told_when_it_is_back(house: Bridge, fault: dict[str, Any]) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}$", method="PATCH", times=None, **fault)
    assert (await cancel(house, session_id)).status_code == 200
    assert (await house.session(session_id))["status"] == "cancelled"
    assert (await row_of(house, session_id))["owed"] == "cancel"
    await clear_faults(house)
    await house.database.execute("UPDATE sessions SET owed_next_at = now() WHERE id = $1", session_id)
    worker = await house.start_worker()
    await until(lambda: is_paid(house, session_id))
    await worker.stop()
    assert (await house.seen(session_id))["status"] == "cancelled"


async def test_a_create_call_that_may_still_arrive_is_waited_for(house: Bridge) -> None:
    await house.fault("/sessions$", method="POST", status=500, times=None)
    await house.fault("/sessions/[^/]+$", method="GET", status=500, times=None)
    assert (await house.api.post("/v1/sessions", json={})).status_code == 201
    await clear_faults(house)
    (found,) = (await house.api.get("/v1/sessions")).json()["items"]
    assert (await cancel(house, found["id"])).status_code == 200
    assert await calls(house, found["id"]) == 0
    assert (await row_of(house, found["id"]))["owed"] == "cancel"
    assert await followed(house, found["id"]) == ["session.created", "session.cancelled", "end"]
    await house.database.execute("UPDATE sessions SET owed_next_at = now() WHERE id = $1", found["id"])
    worker = await house.start_worker()
    await until(lambda: is_paid(house, found["id"]))
    await worker.stop()
    assert await calls(house, found["id"]) == 1


async def followed(house: Bridge, session_id: str) -> list[str]:
    """Return the names of a session's events, to the last one."""
    answer = await house.api.get(f"/v1/sessions/{session_id}/events")
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


async def test_cancelled_while_the_end_is_on_its_way(house: Bridge) -> None:
    await house.vendor_settings(processing_seconds=30)
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.fault(f"{session_id}/end", delay_seconds=0.6)
    ending = asyncio.create_task(house.end(session_id, chunks=1))
    await call_arrived(house, f"{session_id}/end")
    assert (await cancel(house, session_id)).status_code == 200
    assert (await ending).json()["status"] == "cancelled"
    # Had it been told at once, the end that was on its way would have started the session after it.
    assert (await calls(house, session_id), (await house.seen(session_id))["end_calls"]) == (0, 1)
    assert (await row_of(house, session_id))["owed"] == "cancel"
    await house.database.execute("UPDATE sessions SET owed_next_at = now() WHERE id = $1", session_id)
    worker = await house.start_worker()
    await until(lambda: is_paid(house, session_id))
    await worker.stop()
    await house.vendor_settings(processing_seconds=0.05)
    assert (await house.seen(session_id))["status"] == "cancelled"


async def test_an_end_that_the_vendor_answers_with_gone_lets_its_own_word_decide(bridge: Bridge) -> None:
    await bridge.add_destination()
    session_id = (await bridge.create())["id"]
    await bridge.put(session_id, 0)
    await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "expired"})
    assert (await bridge.end(session_id, chunks=1)).status_code == 202
    await hook(bridge, v2_event(session_id, "session.expired"))
    await bridge.start_worker()
    session = await bridge.reach(session_id, "expired")
    assert session["error"]["code"] == "session_expired"
    (received,) = await bridge.received(1)
    assert received["body"]["type"] == "session.expired"


async def test_a_cancel_that_waits_for_the_end_call_is_told_as_soon_as_that_is_over(bridge: Bridge) -> None:
    await bridge.vendor_settings(processing_seconds=30)
    await bridge.start_worker()
    session_id = (await bridge.create())["id"]
    await bridge.put(session_id, 0)
    await bridge.fault("/end$", delay_seconds=0.5, times=1)
    ending = asyncio.create_task(bridge.end(session_id))
    await call_arrived(bridge, "/end$", "POST")
    assert (await cancel(bridge, session_id)).status_code == 200
    await ending

    async def is_told() -> bool:
        return (await bridge.seen(session_id))["status"] == "cancelled"

    await until(is_told, seconds=5)  # and not when the end call's lease would have been over, in a minute


async def test_a_session_that_is_partial_for_now_can_be_cancelled(bridge: Bridge) -> None:
    await bridge.vendor_settings(
        slow_template_seconds=30, partial_while_pending=True, webhook_all_outcomes=True
    )
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["eka_emr_template", "slow_template"])
    await bridge.reach(session_id, "partial")
    assert (await cancel(bridge, session_id)).status_code == 200
    assert (await bridge.session(session_id))["status"] == "cancelled"
