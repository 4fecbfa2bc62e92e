"""GET /v1/deliveries and retry: what was sent, how it went, and sending it again."""

import pytest

from tests.support.api_calls import invalid, problem
from tests.support.bridge import Bridge
from tests.support.received import behave, listed, settled

FIELDS = {
    "id", "session_id", "document_id", "destination_id", "type", "status", "attempts", "next_attempt_at",
    "reason", "record_id",
}  # fmt: skip


async def test_deliveries_are_listed_and_shown_with_their_attempts(bridge: Bridge) -> None:
    first = await bridge.add_destination()
    await bridge.add_destination(events=["session.failed"])
    await bridge.start_worker()
    one = await bridge.dictate(templates=["a_template", "b_template"])
    two = await bridge.dictate()
    found = await settled(bridge, "delivered", 3)
    assert len(found) == len(await listed(bridge)) == 3
    for delivery in found:
        assert set(delivery) >= FIELDS
        assert delivery["destination_id"] == first["id"]
        assert (delivery["type"], delivery["attempts"]) == ("document.ready", 1)
        assert delivery["next_attempt_at"] is None
        single = (await bridge.api.get(f"/v1/deliveries/{delivery['id']}")).json()
        (attempt,) = single["attempts"]
        assert set(attempt) == {"at", "status_code", "error_class", "duration_ms"}
        assert (attempt["status_code"], attempt["error_class"]) == (200, None)
        assert single | {"attempts": 1} == delivery
        received = await bridge.received(1, webhook_id=delivery["id"])
        assert received[0]["body"]["data"]["document"]["id"] == delivery["document_id"]
        assert received[0]["headers"]["idempotency-key"] == delivery["id"]
    newest_first = [delivery["created_at"] for delivery in await listed(bridge)]
    assert newest_first == sorted(newest_first, reverse=True)
    assert {each["session_id"] for each in await listed(bridge, session_id=one)} == {one}
    assert len(await listed(bridge, session_id=one)) == 2
    assert len(await listed(bridge, session_id=two, status="delivered")) == 1
    assert len(await listed(bridge, destination_id=first["id"])) == 3
    for nothing in (
        {"destination_id": "dst_x"},
        {"session_id": "ses_x"},
        {"status": "dead"},
        {"session_id": ""},
    ):
        assert await listed(bridge, **nothing) == []
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        params = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = (await bridge.api.get("/v1/deliveries", params=params)).json()
        seen += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == [each["id"] for each in await listed(bridge)]
    assert (await bridge.session(one))["deliveries"] == {"pending": 0, "delivered": 2, "dead": 0}
    problem(await bridge.api.post(f"/v1/deliveries/{seen[0]}/retry"), 409, "delivery_settled")


async def test_a_dead_delivery_is_sent_again_under_the_same_id(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    await behave(bridge, status=400)
    session_id = await bridge.dictate()
    (dead,) = await settled(bridge, "dead")
    assert dead["reason"]
    assert dead["attempts"] == 1
    assert (await bridge.session(session_id))["deliveries"]["dead"] == 1
    single = (await bridge.api.get(f"/v1/deliveries/{dead['id']}")).json()
    assert [each["status_code"] for each in single["attempts"]] == [400]
    await behave(bridge, status=200)
    answer = await bridge.api.post(f"/v1/deliveries/{dead['id']}/retry")
    assert answer.status_code == 202
    assert answer.json()["id"] == dead["id"]
    await settled(bridge, "delivered")
    received = await bridge.received(2, webhook_id=dead["id"])
    assert len(received) == 2
    assert received[0]["raw"] == received[1]["raw"]
    assert received[1]["verified"] is True
    after = (await bridge.api.get(f"/v1/deliveries/{dead['id']}")).json()
    assert [each["status_code"] for each in after["attempts"]] == [400, 200]
    assert (after["status"], after["reason"]) == ("delivered", None)


async def test_a_removed_destination_gets_nothing_more(bridge: Bridge) -> None:
    made = await bridge.add_destination()
    await bridge.start_worker()
    await behave(bridge, status=503, headers={"Retry-After": "3600"})
    await bridge.dictate()
    await bridge.received(1)
    assert (await bridge.api.delete(f"/v1/destinations/{made['id']}")).status_code == 204
    (dead,) = await settled(bridge, "dead")
    assert dead["reason"] == "destination_removed"
    assert dead["next_attempt_at"] is None


@pytest.mark.parametrize("name", ["msg_nosuch", "a%00b", "%FF", "m" * 5000])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/retry")])
async def test_an_unknown_id_is_not_found(house: Bridge, method: str, path: str, name: str) -> None:
    problem(await house.api.request(method, f"/v1/deliveries/{name}{path}"), 404, "not_found")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%00", "status=lost", "status=", "status=%00"],
)
async def test_a_senseless_parameter_is_refused(house: Bridge, query: str) -> None:
    invalid(await house.api.get(f"/v1/deliveries?{query}"), query.partition("=")[0])


@pytest.mark.parametrize("name", ["session_id", "destination_id"])
@pytest.mark.parametrize("value", ["%00", "a%00b", "%FF", "x" * 5000])
async def test_an_odd_filter_finds_nothing(house: Bridge, name: str, value: str) -> None:
    answer = await house.api.get(f"/v1/deliveries?{name}={value}")
    if answer.status_code == 400:
        invalid(answer, name)
    else:
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"] == []
