"""application/problem+json: one form for every refusal, also for what no route foresaw."""

import asyncio
import re

import pytest

from schemas.problems import STATUS_OF_CODE, TITLES
from tests.support.api_calls import DatabaseGate, hook, problem, request_head, v2_event, wire
from tests.support.bridge import Bridge, open_bridge


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/sessions", "/v1/nothing", "/v1/sessions/x/y/z", "/%00", "/%FF"]
)
async def test_nothing_at_an_address(house: Bridge, path: str) -> None:
    problem(await house.api.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/sessions"),
        ("DELETE", "/v1/sessions"),
        ("GET", "/v1/sessions/ses_x/end"),
        ("PUT", "/v1/sessions/ses_x/end"),
        ("POST", "/v1/sessions/ses_x/timeline"),
        ("PUT", "/v1/documents/doc_x"),
        ("PUT", "/v1/destinations"),
        ("POST", "/v1/deliveries"),
        ("GET", "/v1/deliveries/msg_x/retry"),
        ("POST", "/health/live"),
        ("POST", "/metrics"),
    ],
)
async def test_a_method_that_is_not_taken(house: Bridge, method: str, path: str) -> None:
    answer = await house.api.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert method not in answer.headers["allow"].split(", ")


async def test_every_answer_carries_its_request_id(house: Bridge) -> None:
    ids = set()
    for path in ("/v1/sessions", "/v1/sessions/ses_x", "/nothing", "/health/live", "/metrics", "/docs"):
        answer = await house.api.get(path)
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 6


@pytest.mark.parametrize("given", ["abc-123", "A" * 64, "0.9_z"])
async def test_a_sane_request_id_is_kept(house: Bridge, given: str) -> None:
    answer = await house.api.get("/v1/sessions/ses_x", headers={"X-Request-ID": given})
    assert problem(answer, 404, "not_found")["request_id"] == given


@pytest.mark.parametrize("given", ["", "A" * 65, "two words", '"><script>', "ünïcode".encode("latin-1")])
async def test_an_odd_request_id_is_replaced(house: Bridge, given: str | bytes) -> None:
    answer = await house.api.get("/v1/sessions/ses_x", headers=[("X-Request-ID", given)])
    assert problem(answer, 404, "not_found")["request_id"].startswith("req_")


async def test_what_is_asked_is_not_repeated_in_the_answer(house: Bridge) -> None:
    for path in (
        "/Asha-Rao",
        "?limit=Asha-Rao",
        "?status=Asha-Rao",
        "?Asha-Rao=1&limit=x",
        "?cursor=Asha-Rao",
    ):
        answer = await house.api.get(f"/v1/sessions{path}")
        assert answer.status_code in {400, 404}
        assert "Asha" not in answer.text


def test_every_code_has_a_status_and_every_status_a_title() -> None:
    assert set(STATUS_OF_CODE.values()) <= set(TITLES)
    contract = {
        "idempotency_key_reused": 422,
        "chunk_conflict": 409,
        "audio_empty": 400,
        "chunk_too_large": 413,
        "invalid_audio_format": 415,
        "session_ended": 409,
        "audio_incomplete": 409,
        "audio_missing": 409,
        "vendor_error": 502,
        "vendor_unavailable": 503,
        "vendor_timeout": 504,
        "destination_forbidden": 400,
    }
    assert contract.items() <= STATUS_OF_CODE.items()


@pytest.mark.parametrize(
    "payload",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/sessions HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v1/sessions\r\n\r\n",
        b"GET /v1/sess\x00ions HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_does_no_harm(house: Bridge, payload: bytes) -> None:
    async with wire(house.url) as client:
        await client.send(payload)
        client.finish_sending()
        said = await client.closed()
    assert b" 200 " not in said
    assert b" 500 " not in said
    assert (await house.api.get("/health/live")).status_code == 200


async def test_calls_may_be_pipelined(house: Bridge) -> None:
    body = b'{"reference":"A"}'
    head = request_head(house, "POST", "/v1/sessions", Content_Length=str(len(body)))
    bad = request_head(house, "POST", "/v1/sessions", Content_Length="1") + b"{"
    async with wire(house.url) as client:
        await client.send((head + body) + bad + (head + body))
        statuses = [(await client.answer()).status for _ in range(3)]
    assert statuses == [201, 400, 201]


async def test_without_the_database_everything_says_so_and_comes_back(
    database_url: str, redis_url: str
) -> None:
    gate = DatabaseGate(database_url)
    await gate.open()
    try:
        async with open_bridge(gate.url, redis_url) as bridge:
            session_id = (await bridge.create())["id"]
            await bridge.put(session_id, 0)
            await gate.shut()
            answers = await asyncio.gather(
                bridge.api.get("/v1/sessions"),
                bridge.api.get(f"/v1/sessions/{session_id}"),
                bridge.api.post("/v1/sessions", json={}, headers={"Idempotency-Key": "k"}),
                bridge.put(session_id, 1),
                bridge.end(session_id),
                bridge.api.get("/v1/destinations"),
                bridge.api.get("/v1/deliveries"),
                hook(bridge, v2_event(session_id)),
            )
            for answer in answers:
                problem(answer, 503, "store_unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            ready = await bridge.api.get("/health/ready")
            assert ready.status_code == 200
            assert ready.json()["database"] != "ok"
            assert (await bridge.api.get("/health/live")).status_code == 200
            await gate.open()
            created = await bridge.api.post("/v1/sessions", json={}, headers={"Idempotency-Key": "k"})
            assert created.status_code == 201, created.text
            assert (await bridge.put(session_id, 1)).status_code == 200
            assert (await bridge.end(session_id, chunks=2)).status_code == 202
            assert (await hook(bridge, v2_event(session_id))).json() == {"status": "accepted"}
            assert (await bridge.api.get("/health/ready")).status_code == 200
    finally:
        await gate.shut()
