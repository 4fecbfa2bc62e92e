"""Idempotency-Key at POST /v1/sessions."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import call_arrived, problem, request_head, rows_of, wire
from tests.support.bridge import Bridge


async def create(house: Bridge, key: str | bytes, **fields: Any) -> httpx2.Response:
    return await house.api.post("/v1/sessions", json=fields, headers=[("Idempotency-Key", key)])


async def test_the_same_call_gets_the_same_answer(house: Bridge) -> None:
    first = await create(house, "k1", reference="A")
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    for _ in range(2):
        again = await create(house, "k1", reference="A")
        assert again.status_code == 201
        assert again.headers["idempotency-replayed"] == "true"
        assert again.content == first.content
    assert len(await rows_of(house)) == 1
    assert (await house.seen(first.json()["id"]))["creates"] == 1


async def test_the_answer_stays_the_same_when_the_session_goes_on(house: Bridge) -> None:
    first = await create(house, "k")
    await house.put(first.json()["id"], 0)
    assert (await house.end(first.json()["id"])).status_code == 202
    again = await create(house, "k")
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content


async def test_spelling_of_the_same_json_does_not_matter(house: Bridge) -> None:
    first = await create(house, "k", reference="A", metadata={"a": 1, "b": {"c": 1, "d": 2}})
    spelled = b'{ "metadata" : {"b":{"d":2, "c":1},\n"a":1},"ref\\u0065rence":"\\u0041" }'
    again = await house.api.post("/v1/sessions", content=spelled, headers={"Idempotency-Key": "k"})
    assert again.content == first.content


@pytest.mark.parametrize("other", [{}, {"reference": "B"}, {"reference": "A", "model": "lite"}])
async def test_another_body_is_refused(house: Bridge, other: dict[str, Any]) -> None:
    await create(house, "k", reference="A")
    problem(await create(house, "k", **other), 422, "idempotency_key_reused")
    assert len(await rows_of(house)) == 1


async def test_another_body_is_refused_after_a_failure_too(house: Bridge) -> None:
    await house.fault("^/voice/v1/sessions", times=None, status=503, headers={"Retry-After": "9"})
    assert (await create(house, "k", reference="A")).status_code == 201
    problem(await create(house, "k", reference="B"), 422, "idempotency_key_reused")


async def test_keys_of_two_tenants_are_two(house: Bridge) -> None:
    other = await house.tenant()
    mine = (await create(house, "k", reference="A")).json()
    answer = await other.post("/v1/sessions", json={"reference": "B"}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    assert answer.json()["id"] != mine["id"]
    assert "idempotency-replayed" not in answer.headers


async def test_a_call_that_still_runs_is_said_so(house: Bridge) -> None:
    calls = await house.calls("^/voice/v1/sessions$", "POST")
    await house.fault("^/voice/v1/sessions$", method="POST", delay_seconds=0.6)
    first = asyncio.create_task(create(house, "k", reference="A"))
    await call_arrived(house, "^/voice/v1/sessions$", "POST", calls + 1)
    problem(await create(house, "k", reference="A"), 409, "idempotency_in_progress")
    problem(await create(house, "k", reference="B"), 422, "idempotency_key_reused")
    answer = await first
    assert answer.status_code == 201
    assert (await create(house, "k", reference="A")).content == answer.content
    assert (await house.seen(answer.json()["id"]))["creates"] == 1


async def test_of_many_at_once_one_creates(house: Bridge) -> None:
    answers = await asyncio.gather(*(create(house, "k", reference="A") for _ in range(20)))
    created = [each for each in answers if each.status_code == 201]
    assert len({each.json()["id"] for each in created}) == 1
    assert sum("idempotency-replayed" not in each.headers for each in created) == 1
    for each in answers:
        if each.status_code != 201:
            problem(each, 409, "idempotency_in_progress")
    (row,) = await rows_of(house)
    assert (await house.seen(row["id"]))["creates"] == 1


@pytest.mark.parametrize(
    "key",
    ["", "two words", "k" * 256, "schlüssel".encode(), b"\xff", "a\tb"],
    ids=["empty", "words", "256", "utf-8", "latin-1", "tab"],
)
async def test_a_bad_key_is_refused(house: Bridge, key: str | bytes) -> None:
    problem(await create(house, key, reference="A"), 400, "idempotency_key_invalid")
    assert await rows_of(house) == []


@pytest.mark.parametrize("key", ["k" * 255, "!", '"quoted;key=~"', "019f8b1e-7c1d-7e66-a4f3-0c2a1f6b9d3e"])
async def test_a_good_key_is_accepted(house: Bridge, key: str) -> None:
    assert (await create(house, key)).status_code == 201
    assert (await create(house, key)).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("letter", ["\x00", "\x01", "\x7f"])
async def test_control_characters_in_the_header_never_reach_us(house: Bridge, letter: str) -> None:
    head = request_head(house, "POST", "/v1/sessions", Idempotency_Key=f"a{letter}b", Content_Length="0")
    async with wire(house.url) as client:
        await client.send(head)
        answer = await client.answer()
    assert answer.status == 400
    assert await rows_of(house) == []


async def test_a_refused_body_does_not_use_the_key_up(house: Bridge) -> None:
    problem(await create(house, "k", reference=5), 400, "invalid_request")
    problem(await create(house, "k", patient={"id": 5}), 400, "invalid_request")
    answer = await create(house, "k", reference="A")
    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers


async def test_a_client_that_left_gets_its_session_with_the_same_key(house: Bridge) -> None:
    calls = await house.calls("^/voice/v1/sessions$", "POST")
    await house.fault("^/voice/v1/sessions$", method="POST", delay_seconds=0.3)
    body = b'{"reference":"A"}'
    head = request_head(house, "POST", "/v1/sessions", Idempotency_Key="k", Content_Length=str(len(body)))
    async with wire(house.url) as client:
        await client.send(head + body)
        await call_arrived(house, "^/voice/v1/sessions$", "POST", calls + 1)
        client.reset()
    deadline = time.monotonic() + 5
    while (answer := await create(house, "k", reference="A")).status_code == 409:
        problem(answer, 409, "idempotency_in_progress")
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert answer.status_code == 201, answer.text
    (row,) = await rows_of(house)
    assert row["id"] == answer.json()["id"]
    seen = await house.seen(row["id"])
    assert seen["creates"] == 1
    assert seen["damaged"] is False
