"""Idempotency-Key at POST /v1/destinations: a lost answer costs neither the secret nor a second one."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import invalid, problem
from tests.support.bridge import Bridge

URL = "https://emr.example/hooks"
AUTH = {
    "type": "oauth2",
    "token_url": "https://emr.example/token",
    "client_id": "c",
    "client_secret": "s",
    "scope": "notes",
}


async def add(house: Bridge, key: str | None, url: str = URL, **fields: Any) -> httpx2.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await house.api.post("/v1/destinations", json={"url": url, **fields}, headers=headers)


async def listed(house: Bridge) -> list[str]:
    items = (await house.api.get("/v1/destinations")).json()["items"]
    return [each["id"] for each in items]


async def created_entries(house: Bridge) -> int:
    query = "SELECT count(*) FROM audit WHERE tenant_id = $1 AND action = 'destination.created'"
    row = await house.database.fetchrow(query, house.tenant_id)
    return int(row["count"]) if row else 0


async def test_the_same_call_gets_the_same_answer_its_secret_included(house: Bridge) -> None:
    first = await add(house, "k", headers={"X-Ward": "7"})
    assert first.status_code == 201
    assert first.json()["secret"].startswith("whsec_")
    assert "idempotency-replayed" not in first.headers
    for _ in range(2):
        again = await add(house, "k", headers={"X-Ward": "7"})
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotency-replayed"] == "true"
    assert await listed(house) == [first.json()["id"]]
    assert await created_entries(house) == 1
    kept = await house.database.fetchrow(
        "SELECT * FROM idempotency_keys WHERE session_id = $1", first.json()["id"]
    )
    assert kept is not None
    assert kept["route"] == "createDestination"
    assert b"whsec_" not in kept["answer_sealed"]
    assert b"emr.example" not in kept["answer_sealed"]


async def test_the_answer_stays_the_same_when_the_destination_changes(house: Bridge) -> None:
    first = await add(house, "k")
    path = f"/v1/destinations/{first.json()['id']}"
    assert (await house.api.patch(path, json={"enabled": False})).status_code == 200
    assert (await house.api.post(f"{path}/rotate-secret", json={})).status_code == 200
    assert (await add(house, "k")).content == first.content


@pytest.mark.parametrize("overlaps", [[0], [3600, 3600], [3600, "over"]])
async def test_a_repeat_shows_no_secret_that_signs_no_more(house: Bridge, overlaps: list[Any]) -> None:
    first = await add(house, "k", headers={"X-Ward": "7"}, auth=AUTH)
    destination_id = first.json()["id"]
    for overlap in overlaps:
        if overlap == "over":
            await house.database.execute(
                "UPDATE destinations SET previous_until = now() WHERE id = $1", destination_id
            )
            continue
        assert (await add(house, "k", headers={"X-Ward": "7"}, auth=AUTH)).content == first.content
        path = f"/v1/destinations/{destination_id}/rotate-secret"
        assert (await house.api.post(path, json={"overlap_seconds": overlap})).status_code == 200
    again = await add(house, "k", headers={"X-Ward": "7"}, auth=AUTH)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == {name: value for name, value in first.json().items() if name != "secret"}


@pytest.mark.parametrize("other", [{"url": f"{URL}/2"}, {"enabled": False}, {"events": ["document.ready"]}])
async def test_another_body_is_refused(house: Bridge, other: dict[str, Any]) -> None:
    await add(house, "k")
    problem(await add(house, "k", **other), 422, "idempotency_key_reused")
    assert len(await listed(house)) == 1


async def test_of_many_at_once_one_adds(house: Bridge) -> None:
    answers = await asyncio.gather(*(add(house, "k") for _ in range(12)))
    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    assert sum("idempotency-replayed" not in each.headers for each in answers) == 1
    assert len(await listed(house)) == 1
    assert await created_entries(house) == 1


async def test_calls_without_a_key_or_with_two_add_two(house: Bridge) -> None:
    made = [(await add(house, key)).json()["id"] for key in (None, None, "a", "b")]
    assert len(set(made)) == 4


async def test_keys_of_two_tenants_and_of_two_kinds_of_calls_do_not_meet(house: Bridge) -> None:
    other = await house.tenant()
    mine = await add(house, "k")
    theirs = await other.post("/v1/destinations", json={"url": URL}, headers={"Idempotency-Key": "k"})
    session = await house.api.post("/v1/sessions", json={}, headers={"Idempotency-Key": "k"})
    assert (theirs.status_code, session.status_code) == (201, 201)
    assert theirs.json()["secret"] != mine.json()["secret"]
    assert "idempotency-replayed" not in session.headers


async def test_a_call_that_still_runs_is_said_so(house: Bridge) -> None:
    await add(house, "k")
    await house.database.execute(
        "UPDATE idempotency_keys SET answer_sealed = NULL, lease = gen_random_uuid(), "
        "lease_until = now() + interval '1 minute' WHERE tenant_id = $1",
        house.tenant_id,
    )
    problem(await add(house, "k"), 409, "idempotency_in_progress")


@pytest.mark.parametrize("key", ["", "two words", "k" * 256])
async def test_a_bad_key_is_refused(house: Bridge, key: str) -> None:
    problem(await add(house, key), 400, "idempotency_key_invalid")
    assert await listed(house) == []


async def test_a_refused_body_does_not_use_the_key_up(house: Bridge) -> None:
    invalid(await add(house, "k", headers={"content-type": "x"}), "headers.content-type")
    problem(await add(house, "k", url="https://user:pw@emr.example/"), 400, "destination_forbidden")
    answer = await add(house, "k")
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers


async def test_a_removed_destination_takes_its_kept_answer_along(house: Bridge) -> None:
    first = await add(house, "k")
    await house.api.delete(f"/v1/destinations/{first.json()['id']}")
    kept = await house.database.fetchrow(
        "SELECT * FROM idempotency_keys WHERE session_id = $1", first.json()["id"]
    )
    assert kept is not None
    assert (kept["answer_sealed"], kept["request_hash"]) == (None, b"")
    problem(await add(house, "k"), 404, "not_found")
    assert await listed(house) == []
