"""Test, recover and confirm, from outside: a ping, what was missed, and proof of filing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem, until
from tests.support.bridge import Bridge
from tests.support.received import behave, listed, settled

LONG_AGO = "2020-01-01T00:00:00Z"


async def test_a_ping_comes_signed_and_can_be_watched(bridge: Bridge) -> None:
    made = await bridge.add_destination(events=["session.failed"], templates=["none_of_ours"])
    await bridge.start_worker()
    answer = await bridge.api.post(f"/v1/destinations/{made['id']}/test")
    assert answer.status_code == 202, answer.text
    ping = answer.json()
    assert (ping["type"], ping["session_id"], ping["document_id"]) == ("ping", None, None)
    assert (ping["status"], ping["destination_id"]) == ("pending", made["id"])
    (received,) = await bridge.received(1)
    assert received["verified"] is True
    assert received["headers"]["webhook-id"] == ping["id"]
    assert set(received["body"]) == {"type", "timestamp", "data"}
    assert received["body"]["type"] == "ping"
    assert received["body"]["data"] == {"destination_id": made["id"]}

    async def is_delivered() -> bool:
        return len(await listed(bridge, status="delivered")) == 1

    await until(is_delivered)
    trail = await bridge.database.fetch("SELECT object_id FROM audit WHERE action = 'destination.tested'")
    assert [row["object_id"] for row in trail] == [made["id"]]


async def test_a_destination_that_is_off_is_neither_tested_nor_recovered(house: Bridge) -> None:
    made = (await house.api.post("/v1/destinations", json={"url": "https://emr.example/hooks"})).json()
    path = f"/v1/destinations/{made['id']}"
    (await house.api.patch(path, json={"enabled": False})).raise_for_status()
    problem(await house.api.post(f"{path}/test"), 409, "destination_disabled")
    problem(await house.api.post(f"{path}/recover", json={"since": LONG_AGO}), 409, "destination_disabled")


async def test_a_destination_has_ten_pings_that_wait_at_most(house: Bridge) -> None:
    paths = []
    for name in ("slow", "other"):
        made = (
            await house.api.post("/v1/destinations", json={"url": f"https://{name}.example/hooks"})
        ).json()
        paths.append(f"/v1/destinations/{made['id']}/test")
    for _ in range(10):
        assert (await house.api.post(paths[0])).status_code == 202
    refused = await house.api.post(paths[0])
    problem(refused, 429, "rate_limited")
    assert refused.headers["retry-after"] == "10"
    assert (await house.api.post(paths[1])).status_code == 202


async def test_a_hospital_that_was_down_gets_everything_once(bridge: Bridge) -> None:
    made = await bridge.add_destination()
    await behave(bridge, status=503)
    await bridge.start_worker()
    sessions = [await bridge.dictate() for _ in range(3)]
    died = await settled(bridge, "dead", 3)
    await behave(bridge, status=200)
    await bridge.emr.post("/_control/reset")
    path = f"/v1/destinations/{made['id']}/recover"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert (await bridge.api.post(path, json={"since": tomorrow})).json() == {"recovered": 0, "replayed": 0}
    answer = await bridge.api.post(path, json={"since": LONG_AGO})
    assert (answer.status_code, answer.json()) == (202, {"recovered": 3, "replayed": 0})
    await settled(bridge, "delivered", 3)
    assert (await bridge.api.post(path, json={"since": LONG_AGO})).json() == {"recovered": 0, "replayed": 0}
    received = await bridge.received(3)
    assert {each["headers"]["webhook-id"] for each in received} == {each["id"] for each in died}
    assert {each["body"]["data"]["session_id"] for each in received} == set(sessions)
    # One that was added later gets what it never got.
    late = await bridge.add_destination(f"{bridge.emr_url}/hooks/late")
    answer = await bridge.api.post(f"/v1/destinations/{late['id']}/recover", json={"since": LONG_AGO})
    assert answer.json() == {"recovered": 0, "replayed": 3}
    assert len(await bridge.received(3, name="late")) == 3
    facts = await bridge.database.fetch(
        "SELECT facts FROM audit WHERE action = 'destination.recovered' AND object_id = $1", late["id"]
    )
    assert [row["facts"] for row in facts]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"since": None},
        {"since": 5},
        {"since": LONG_AGO, "until": LONG_AGO},
    ],
)
async def test_a_senseless_since_is_refused(house: Bridge, body: dict[str, Any]) -> None:
    invalid(await house.api.post("/v1/destinations/dst_x/recover", json=body))


@pytest.mark.parametrize(
    "since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00Z"]
)
async def test_the_ends_of_time_are_no_failure(house: Bridge, since: str) -> None:
    made = (await house.api.post("/v1/destinations", json={"url": "https://emr.example/hooks"})).json()
    answer = await house.api.post(f"/v1/destinations/{made['id']}/recover", json={"since": since})
    assert answer.status_code in {202, 400}, answer.text


async def test_another_tenant_s_are_none(bridge: Bridge) -> None:
    made = await bridge.add_destination()
    await bridge.start_worker()
    await bridge.dictate()
    (delivery,) = await settled(bridge, "delivered")
    other = await bridge.tenant()
    path = f"/v1/destinations/{made['id']}"
    problem(await other.post(f"{path}/test"), 404, "not_found")
    problem(await other.post(f"{path}/recover", json={"since": LONG_AGO}), 404, "not_found")
    confirm = f"/v1/deliveries/{delivery['id']}/confirm"
    problem(await other.post(confirm, json={"record_id": "NOTE-1"}), 404, "not_found")
    problem(await bridge.api.post("/v1/deliveries/msg_x/confirm", json={"record_id": "1"}), 404, "not_found")


async def test_a_filing_is_confirmed_and_both_moments_are_in_the_timeline(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate()
    (delivery,) = await settled(bridge, "delivered")
    path = f"/v1/deliveries/{delivery['id']}/confirm"
    answer = await bridge.api.post(path, json={"record_id": "NOTE-4711"})
    assert answer.status_code == 200, answer.text
    filed = answer.json()
    assert (filed["id"], filed["status"], filed["record_id"]) == (delivery["id"], "filed", "NOTE-4711")
    assert (await bridge.api.post(path, json={"record_id": "NOTE-4711"})).json() == filed
    other = await bridge.api.post(path, json={"record_id": "NOTE-1"})
    assert "NOTE" not in problem(other, 409, "delivery_already_filed")["detail"]
    entries = (await bridge.api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
    moments = [each for each in entries if each["type"] in {"delivery.delivered", "delivery.filed"}]
    assert [each["type"] for each in moments] == ["delivery.delivered", "delivery.filed"]
    assert moments[1]["data"]["confirmed"] is True
    assert moments[0]["at"] < moments[1]["at"]
    assert "NOTE" not in str(entries)
    assert (await bridge.session(session_id))["deliveries"] == {"pending": 0, "delivered": 1, "dead": 0}


async def test_a_delivery_that_we_think_dead_can_be_confirmed(bridge: Bridge) -> None:
    await bridge.add_destination()
    await behave(bridge, status=400)
    await bridge.start_worker()
    await bridge.dictate()
    (dead,) = await settled(bridge, "dead")
    answer = await bridge.api.post(f"/v1/deliveries/{dead['id']}/confirm", json={"record_id": "7"})
    assert (answer.status_code, answer.json()["status"]) == (200, "filed")
    problem(await bridge.api.post(f"/v1/deliveries/{dead['id']}/retry"), 409, "delivery_settled")


@pytest.mark.parametrize(
    "record_id", ["", "x" * 129, "a b", "a/b", "NOTE-1\n", "é", "a\0b", None, 7, ["NOTE-1"], "Patient Rao"]
)
async def test_what_is_no_record_id_is_refused(house: Bridge, record_id: Any) -> None:
    invalid(await house.api.post("/v1/deliveries/msg_x/confirm", json={"record_id": record_id}), "record_id")


@pytest.mark.parametrize("body", [{}, {"record_id": "NOTE-1", "more": 1}])
async def test_another_body_is_refused(house: Bridge, body: dict[str, Any]) -> None:
    invalid(await house.api.post("/v1/deliveries/msg_x/confirm", json=body))


async def test_a_follower_of_the_session_learns_of_the_filing(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate()
    (delivery,) = await settled(bridge, "delivered")

    async def mark() -> str:
        rows = await bridge.database.fetch(
            "SELECT count(confirmed_at) AS n FROM deliveries WHERE session_id = $1", session_id
        )
        return str(rows[0]["n"])

    assert await mark() == "0"
    await bridge.api.post(f"/v1/deliveries/{delivery['id']}/confirm", json={"record_id": "NOTE-1"})

    async def has_confirmed() -> bool:
        async with bridge.api.stream("GET", f"/v1/sessions/{session_id}/events") as answer:
            text = "".join([piece async for piece in answer.aiter_text()])
        return "delivery.filed" in text

    await until(has_confirmed)


async def test_a_rated_destination_is_called_no_faster(bridge: Bridge) -> None:
    made = await bridge.add_destination(rate_per_second=5)
    for _ in range(5):
        await bridge.dictate()
    await bridge.start_worker()
    await settled(bridge, "delivered", 5)
    times = sorted(each["at"] for each in await bridge.received(5))
    # Four spaces of a fifth of a second between five claims. What is seen here are the arrivals, and a busy
    # machine may hold the first of them back; calls without a rate come within some milliseconds.
    assert times[-1] - times[0] >= 0.4
    assert {each["destination_id"] for each in await listed(bridge)} == {made["id"]}
