"""POST /v1/sessions/{id}/end: once at the vendor, whatever happens around it."""

import asyncio
from typing import Any

import pytest

from tests.support.api_calls import chunks_of, clear_faults, expire, invalid, problem, wire
from tests.support.api_calls import request_head as head_of
from tests.support.bridge import Bridge

JSON = {"content-type": "application/json"}


async def recorded(house: Bridge, *sequences: int, **fields: Any) -> str:
    """Create a session that holds these chunks."""
    session_id = str((await house.create(**fields))["id"])
    for sequence in sequences:
        answer = await house.put(session_id, sequence, f"audio {sequence}".encode())
        assert answer.status_code == 200, answer.text
    return session_id


async def still_open(house: Bridge, session_id: str, status: str = "recording") -> None:
    """Nothing was ended, here or there."""
    session = await house.session(session_id)
    assert (session["status"], session["ended_at"]) == (status, None)
    assert (await house.seen(session_id))["end_calls"] == 0
    assert await house.database.fetch("SELECT 1 FROM fetches WHERE session_id = $1", session_id) == []


@pytest.mark.parametrize(
    ("content", "headers"), [(b"", {}), (b"", JSON), (b"{}", JSON), (b"{}", {}), (b'{"chunks": 2}', JSON)]
)
async def test_the_end_starts_processing(house: Bridge, content: bytes, headers: dict[str, str]) -> None:
    session_id = await recorded(house, 0, 1, templates=["a_template", "b_template"])
    answer = await house.api.post(f"/v1/sessions/{session_id}/end", content=content, headers=headers)
    assert answer.status_code == 202, answer.text
    session = answer.json()
    assert session["id"] == session_id
    assert session["status"] == "processing"
    assert session["ended_at"].endswith("Z")
    assert session["chunks_received"] == 2
    seen = await house.seen(session_id)
    assert seen["end_counts"] == [2]
    owed = await house.database.fetch(
        "SELECT template_id FROM fetches WHERE session_id = $1 ORDER BY template_id", session_id
    )
    assert [row["template_id"] for row in owed] == ["a_template", "b_template"]


@pytest.mark.parametrize("request_fields", [{}, {"chunks": 0}, {"chunks": 3}, {"force": True}])
async def test_without_audio_there_is_no_end(house: Bridge, request_fields: dict[str, Any]) -> None:
    session_id = await recorded(house)
    problem(await house.end(session_id, **request_fields), 409, "audio_missing")
    await still_open(house, session_id, "created")


@pytest.mark.parametrize(
    ("sequences", "request_fields", "missing"),
    [
        ((0, 2), {}, [1]),
        ((1,), {}, [0]),
        ((0, 2, 5), {"chunks": 6}, [1, 3, 4]),
        ((0, 1), {"chunks": 3}, [2]),
        ((0,), {"chunks": 4}, [1, 2, 3]),
        ((0, 2), {"chunks": 2}, [1]),
        ((0, 2), {"chunks": 2, "force": False}, [1]),
    ],
)
async def test_a_hole_is_named_and_may_be_forced(
    house: Bridge, sequences: tuple[int, ...], request_fields: dict[str, Any], missing: list[int]
) -> None:
    session_id = await recorded(house, *sequences)
    found = problem(await house.end(session_id, **request_fields), 409, "audio_incomplete")
    assert found["missing"] == missing
    await still_open(house, session_id)
    forced = await house.end(session_id, **(request_fields | {"force": True}))
    assert forced.status_code == 202, forced.text
    assert (await house.seen(session_id))["end_counts"] == [len(sequences)]


async def test_a_filled_hole_is_none(house: Bridge) -> None:
    session_id = await recorded(house, 0, 2)
    problem(await house.end(session_id), 409, "audio_incomplete")
    await house.put(session_id, 1)
    assert (await house.end(session_id)).status_code == 202


async def test_more_chunks_than_announced_are_no_hole(house: Bridge) -> None:
    session_id = await recorded(house, 0, 1)
    assert (await house.end(session_id, chunks=1)).status_code == 202


async def test_a_hundred_thousand_holes_are_told_in_bounds(house: Bridge) -> None:
    session_id = await recorded(house, 99_999)
    answer = await house.end(session_id)
    found = problem(answer, 409, "audio_incomplete")
    assert found["missing"][:3] == [0, 1, 2]
    assert len(answer.content) < 1_000_000


async def test_the_end_again_answers_the_same_and_calls_nobody(house: Bridge) -> None:
    session_id = await recorded(house, 0)
    first = await house.end(session_id)
    calls = await house.calls(session_id)
    for request_fields in ({}, {"chunks": 1}, {"chunks": 7}, {"force": True}):
        again = await house.end(session_id, **request_fields)
        assert again.status_code == 202
        assert again.json() == first.json()
    assert await house.calls(session_id) == calls
    seen = await house.seen(session_id)
    assert seen["end_calls"] == 1


async def test_many_ends_at_once_are_one(house: Bridge) -> None:
    session_id = await recorded(house, 0)
    await house.fault(f"{session_id}/end", delay_seconds=0.2)
    answers = await asyncio.gather(*(house.end(session_id, chunks=1) for _ in range(12)))
    assert [answer.status_code for answer in answers] == [202] * 12
    assert len({answer.json()["ended_at"] for answer in answers}) == 1
    seen = await house.seen(session_id)
    assert seen["end_calls"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chunks", "3"),
        ("chunks", "x"),
        ("chunks", -1),
        ("chunks", 2.5),
        ("chunks", True),
        ("chunks", [1]),
        ("chunks", {}),
        ("chunks", 100_001),
        ("chunks", 2**63),
        ("chunks", 10**300),
        ("force", "true"),
        ("force", 1),
        ("force", None),
        ("force", []),
        ("surprise", 1),
        ("audio_files_sent", 1),
    ],
)
async def test_a_wrong_value_names_its_field(house: Bridge, field: str, value: Any) -> None:
    session_id = await recorded(house, 0)
    invalid(await house.end(session_id, **{field: value}), field)
    await still_open(house, session_id)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"1",
        b'"chunks"',
        b'{"chunks": NaN}',
        b"\xff",
        b'{"\xff": 1}',
        b"{}{}",
        b"\0",
        b"[" * 60_000,
    ],
)
async def test_what_is_not_json_is_refused(house: Bridge, content: bytes) -> None:
    session_id = await recorded(house, 0)
    invalid(await house.api.post(f"/v1/sessions/{session_id}/end", content=content, headers=JSON))
    await still_open(house, session_id)


async def test_five_megabytes_are_refused(house: Bridge) -> None:
    session_id = await recorded(house, 0)
    content = b'{"chunks": 1' + b" " * 5_000_000 + b"}"
    answer = await house.api.post(f"/v1/sessions/{session_id}/end", content=content, headers=JSON)
    problem(answer, 413, "body_too_large")
    await still_open(house, session_id)


async def test_a_body_that_ends_early_ends_nothing(house: Bridge) -> None:
    session_id = await recorded(house, 0)
    for body in (b'{"chunks": 1}', b'{"chunks":', b""):
        async with wire(house.url) as client:
            await client.send(
                head_of(house, "POST", f"/v1/sessions/{session_id}/end", Content_Length="90"), body
            )
            client.finish_sending()
            said = await client.closed()
        assert b" 202 " not in said
        assert b" 500 " not in said
    await still_open(house, session_id)


@pytest.mark.parametrize("session_id", ["ses_nosuchsession00000", "%00", "a%00b", "%FF", "s" * 3000])
async def test_an_unknown_session_is_not_found(house: Bridge, session_id: str) -> None:
    problem(await house.api.post(f"/v1/sessions/{session_id}/end"), 404, "not_found")


async def test_after_the_hour_there_is_no_end(house: Bridge) -> None:
    session_id = await recorded(house, 0)
    await expire(house, session_id)
    problem(await house.end(session_id), 409, "session_expired")
    assert (await house.seen(session_id))["end_calls"] == 0


TRANSIENT: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "500 after": {"status": 500, "when": "after"},
    "503": {"status": 503, "headers": {"Retry-After": "0"}},
    "503 after": {"status": 503, "when": "after"},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "reset": {"mode": "reset"},
    "reset after": {"mode": "reset", "when": "after"},
    "half an answer": {"mode": "half_json"},
    "html after": {"status": 202, "body": "<html>", "when": "after"},
    "401": {"status": 401, "body": {"detail": "token_expired"}},
}


@pytest.mark.parametrize("name", TRANSIENT)
async def test_one_failure_of_the_vendor_is_not_seen(house: Bridge, name: str) -> None:
    session_id = await recorded(house, 0, 1)
    await house.fault(f"{session_id}/end", method="POST", **TRANSIENT[name])
    answer = await house.end(session_id, chunks=2)
    assert answer.status_code == 202, answer.text
    seen = await house.seen(session_id)
    assert (seen["end_calls"], seen["end_counts"]) == (1, [2])
    assert (await house.end(session_id, chunks=2)).json() == answer.json()
    assert (await house.seen(session_id))["end_calls"] == 1


OUTAGES: dict[str, tuple[dict[str, Any], int]] = {
    "500": ({"status": 500}, 202),
    "503": ({"status": 503, "headers": {"Retry-After": "30"}}, 202),
    "429": ({"status": 429, "headers": {"Retry-After": "30"}}, 202),
    "reset": ({"mode": "reset"}, 202),
    "400": ({"status": 400, "body": {"error": {"code": "bad_request"}}}, 502),
    "403": ({"status": 403, "body": {"detail": "no_such_right"}}, 502),
}


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("name", OUTAGES)
async def test_an_end_during_an_outage_ends_the_session_and_is_repeated_once_after_it(
    house: Bridge, name: str, takes_effect: bool
) -> None:
    fault, status = OUTAGES[name]
    session_id = await recorded(house, 0)
    effect = {"when": "after"} if takes_effect else {}
    await house.fault(f"{session_id}/end", method="POST", times=None, **fault, **effect)
    await house.fault(f"{session_id}$", method="GET", times=None, **fault)
    answer = await house.end(session_id, chunks=1)
    if status == 202:
        assert (answer.status_code, answer.json()["status"]) == (202, "processing"), answer.text
    else:
        problem(answer, status, "vendor_error")
    happened = (await house.seen(session_id))["end_calls"]
    assert happened == int(takes_effect)
    await clear_faults(house)
    again = await house.end(session_id, chunks=1)
    assert again.status_code == 202, again.text
    assert again.json()["status"] == "processing"
    seen = await house.seen(session_id)
    assert (seen["end_calls"], seen["end_counts"]) == (1, [1])
    assert len(await chunks_of(house, session_id)) == 1
    assert (await house.database.fetchval("SELECT owed FROM sessions WHERE id = $1", session_id)) is None


async def test_a_session_that_the_vendor_refused_cannot_be_ended(house: Bridge) -> None:
    answer = await house.api.post("/v1/sessions", json={"templates": ["no_such_template"]})
    assert answer.status_code == 502
    session_id = await house.database.fetchval(
        "SELECT id FROM sessions WHERE tenant_id = $1", house.tenant_id
    )
    problem(await house.end(session_id), 409, "session_ended")
