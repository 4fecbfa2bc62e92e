"""POST /webhooks/eka: who is believed, what is recorded, and that one of many is acted on."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import hook, mac, problem, signature, v2_event, wire
from tests.support.bridge import WEBHOOK_SECRET, Bridge, open_bridge

SHAPES: dict[str, Any] = {
    "nested": lambda session_id: {
        "business_id": "b",
        "client_id": "c",
        "service_id": "v2rx",
        "event_id": "v2rx.completed",
        "payload": {
            "service": "v2rx",
            "event": "v2rx.completed",
            "event_time": "2026-01-01T00:00:00Z",
            "transaction_id": session_id,
            "data": {},
        },
    },
    "flat": lambda session_id: {
        "service": "v2rx",
        "event": "v2rx.completed",
        "event_time": "2026-01-01T00:00:00Z",
        "timestamp": 1,
        "transaction_id": session_id,
        "client_id": "c",
        "business_id": "b",
        "data": {},
    },
    "flat, event_type": lambda session_id: {
        "service": "v2rx",
        "event_type": "v2rx.completed",
        "transaction_id": session_id,
        "data": {"status": "completed"},
    },
    "v2": v2_event,
    "v2, session_id": lambda session_id: {
        "event": "v2rx.completed",
        "data": {"session_id": session_id, "status": "completed"},
        "timestamp": "2026-01-01T00:00:00Z",
    },
    "protocol": lambda session_id: {
        "event": "session.completed",
        "timestamp": "2026-01-01T00:00:00Z",
        "session_id": session_id,
    },
}


async def said(house: Bridge, event: Any, **how: Any) -> str:
    """Send a webhook that must be let in; return what became of it."""
    answer = await hook(house, event, **how)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"status"}
    return str(answer.json()["status"])


async def events_of(house: Bridge, session_id: str) -> list[Any]:
    return await house.database.fetch(
        "SELECT * FROM webhook_events WHERE session_id = $1 ORDER BY received_at", session_id
    )


async def due(house: Bridge, session_id: str) -> list[bool]:
    """Whether each result of the session is due now."""
    rows = await house.database.fetch(
        "SELECT next_at <= now() AS due FROM fetches WHERE session_id = $1", session_id
    )
    return [row["due"] for row in rows]


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_shape_is_understood_and_makes_results_due(house: Bridge, shape: str) -> None:
    session_id = await house.dictate(templates=["a_template", "b_template"])
    assert await due(house, session_id) == [False, False]
    event = SHAPES[shape](session_id)
    assert await said(house, event) == "accepted"
    assert await due(house, session_id) == [True, True]  # committed before the 200
    assert len(await events_of(house, session_id)) == 1
    assert await said(house, event) == "duplicate"
    for write in SHAPES.values():
        assert await said(house, write(session_id)) == "duplicate"
    (row,) = await events_of(house, session_id)
    assert row["repeats"] == 1 + len(SHAPES)


@pytest.mark.parametrize("name", ["Eka-Webhook-Signature", "X-MSA-Signature", "x-msa-signature"])
async def test_both_headers_are_read(house: Bridge, name: str) -> None:
    session_id = await house.dictate()
    assert await said(house, v2_event(session_id), name=name) == "accepted"
    body = json.dumps(v2_event(session_id)).encode()
    answer = await hook(house, body, header=signature(body, secret="wrong"), name=name)
    problem(answer, 401, "signature_invalid")


async def test_one_good_header_of_two_is_enough(house: Bridge) -> None:
    session_id = await house.dictate()
    body = json.dumps(v2_event(session_id)).encode()
    headers = {
        "Eka-Webhook-Signature": signature(body, secret="old"),
        "X-MSA-Signature": signature(body),
        "content-type": "application/json",
    }
    async with httpx2.AsyncClient(base_url=house.url, trust_env=False) as client:
        answer = await client.post("/webhooks/eka", content=body, headers=headers)
    assert answer.json() == {"status": "accepted"}


@pytest.mark.parametrize("kind", ["completed", "partial", "failed", "expired"])
@pytest.mark.parametrize("service", ["session", "v2rx"])
async def test_every_ending_makes_results_due(house: Bridge, kind: str, service: str) -> None:
    session_id = await house.dictate()
    event = {"event": f"{service}.{kind}", "timestamp": "x", "session_id": session_id}
    assert await said(house, event) == "accepted"
    assert await due(house, session_id) == [True]


@pytest.mark.parametrize("kind", ["started", "ended"])
async def test_what_is_no_ending_makes_nothing_due(house: Bridge, kind: str) -> None:
    session_id = await house.dictate()
    event = {"event": f"session.{kind}", "timestamp": "x", "session_id": session_id}
    assert await said(house, event) == "accepted"
    assert await due(house, session_id) == [False]
    assert await said(house, event) == "duplicate"
    assert await said(house, v2_event(session_id)) == "accepted"
    assert await due(house, session_id) == [True]


@pytest.mark.parametrize(
    "event",
    [
        v2_event("ses_nobodyknowsthis00001"),
        v2_event("x" * 5000),
        v2_event("ses_\0"),
        v2_event("ses_ünïcode"),
        v2_event(""),
        {"event": "session.completed"},
        {"event": "session.completed", "session_id": None},
        {"event": "session.completed", "session_id": 5},
        {"event": "session.completed", "session_id": ["a"]},
        {"event": "session.completed", "session_id": {"a": 1}},
        {"event": 5, "data": {"transaction_id": True}},
        {"event": {"a": 1}, "payload": {"transaction_id": "x"}},
        {"payload": 5, "data": "x"},
        {"data": []},
        {},
        [],
        [1, 2],
        "text",
        5,
        None,
        True,
    ],
    ids=str,
)
async def test_what_names_no_session_of_ours_is_ignored_and_recorded(house: Bridge, event: Any) -> None:
    before = await house.database.fetchval("SELECT coalesce(sum(repeats + 1), 0) FROM webhook_events")
    for _ in range(2):
        assert await said(house, event) == "ignored"
    after = await house.database.fetchval("SELECT coalesce(sum(repeats + 1), 0) FROM webhook_events")
    assert after == before + 2


@pytest.mark.parametrize(
    "name", ["v2rx.exploded", "other.completed", "", "completed.session", "x" * 9000, "a\0b", 5]
)
async def test_an_unknown_kind_is_ignored_and_does_nothing(house: Bridge, name: Any) -> None:
    session_id = await house.dictate()
    event = {"event": name, "timestamp": "x", "session_id": session_id}
    for _ in range(2):
        assert await said(house, event) == "ignored"
    assert len(await events_of(house, session_id)) == 1
    assert await due(house, session_id) == [False]
    assert await said(house, v2_event(session_id)) == "accepted"


async def test_of_a_hundred_at_once_one_is_accepted(house: Bridge) -> None:
    session_id = await house.dictate()
    shapes = list(SHAPES.values())
    answers = await asyncio.gather(*(said(house, shapes[n % len(shapes)](session_id)) for n in range(100)))
    assert Counter(answers) == {"accepted": 1, "duplicate": 99}
    (row,) = await events_of(house, session_id)
    assert row["repeats"] == 99


async def test_before_the_end_it_finishes_nothing_and_after_it_counts(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    assert await said(house, v2_event(session_id)) == "accepted"
    assert await said(house, v2_event(session_id)) == "duplicate"
    assert (await house.session(session_id))["status"] == "recording"
    assert await due(house, session_id) == []
    assert (await house.put(session_id, 1)).status_code == 200
    assert (await house.end(session_id, chunks=2)).status_code == 202
    assert (await house.session(session_id))["status"] == "processing"
    assert await due(house, session_id) == [False]
    assert await said(house, v2_event(session_id)) == "accepted"
    assert await due(house, session_id) == [True]
    assert await said(house, v2_event(session_id)) == "duplicate"
    timeline = (await house.api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
    seen = [entry["data"]["before_end"] for entry in timeline if entry["type"] == "webhook.received"]
    assert seen == [True, False]


async def test_what_is_recorded_holds_no_content(house: Bridge) -> None:
    session_id = await house.dictate()
    event = v2_event(session_id)
    event["data"]["note"] = "Asha Rao has a cough"
    body = json.dumps(event).encode()
    assert await said(house, body) == "accepted"
    (row,) = await events_of(house, session_id)
    assert row["body_sha256"] == hashlib.sha256(body).digest()
    assert row["body_bytes"] == len(body)
    assert "Asha" not in repr(dict(row))


BODY = json.dumps(v2_event("ses_nobodyknowsthis00001")).encode()


@pytest.mark.parametrize(
    "make",
    [
        lambda _: "",
        lambda now: f"t={now}",
        lambda now: f"v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t={now},v1=",
        lambda now: f"t={now},v1=00",
        lambda now: f"t={now},v0={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t={now},v1={mac(BODY, 'another', now)}",
        lambda now: f"t={now},v1={mac(BODY, '', now)}",
        lambda now: f"t={now},v1={mac(BODY + b' ', WEBHOOK_SECRET, now)}",
        lambda now: f"t={now},v1={mac(b'', WEBHOOK_SECRET, now)}",
        lambda now: f"t={now + 1},v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t={now},v1={mac(BODY, WEBHOOK_SECRET, now)[:-1]}",
        lambda now: f"t={now},v1={mac(BODY, WEBHOOK_SECRET, now)}00",
        lambda now: f"t={now},t={now},v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t=-{now},v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t={now}.0,v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t={'9' * 400},v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t=NaN,v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: f"t=,v1={mac(BODY, WEBHOOK_SECRET, now)}",
        lambda now: mac(BODY, WEBHOOK_SECRET, now),
        lambda now: f"t={now},v1={mac(BODY, WEBHOOK_SECRET, now)}," + "v1=00," * 5000 + "v1=00",
        lambda now: f"t={now},v1=\xe9",
        lambda _: "=,=,=",
    ],
)
async def test_a_wrong_signature_is_refused(house: Bridge, make: Any) -> None:
    before = await house.database.fetchval("SELECT coalesce(sum(repeats + 1), 0) FROM webhook_events")
    header = make(int(time.time()))
    async with httpx2.AsyncClient(base_url=house.url, trust_env=False) as client:
        given = [(b"eka-webhook-signature", header.encode("latin-1"))] if header else []
        answer = await client.post("/webhooks/eka", content=BODY, headers=given)
    problem(answer, 401, "signature_invalid")
    after = await house.database.fetchval("SELECT coalesce(sum(repeats + 1), 0) FROM webhook_events")
    assert after == before


async def test_a_signature_for_another_body_is_refused(house: Bridge) -> None:
    first, second = await house.dictate(), await house.dictate()
    good = json.dumps(v2_event(first)).encode()
    problem(
        await hook(house, json.dumps(v2_event(second)).encode(), header=signature(good)),
        401,
        "signature_invalid",
    )
    assert await events_of(house, second) == []


@pytest.mark.parametrize(
    ("age", "fresh"), [(295, True), (-295, True), (305, False), (-305, False), (9**9, False)]
)
async def test_a_signature_is_fresh_for_300_seconds(house: Bridge, age: int, fresh: bool) -> None:
    header = signature(BODY, at=int(time.time()) - age)
    answer = await hook(house, BODY, header=header)
    assert answer.status_code == (200 if fresh else 401)


async def test_several_signatures_may_stand_in_one_header(house: Bridge) -> None:
    now = int(time.time())
    good, bad = mac(BODY, WEBHOOK_SECRET, now), mac(BODY, "old", now)
    for header in (
        f"t={now},v1={bad},v1={good}",
        f"t={now},v1={good},v1={bad}",
        f"v1={good},t={now}",
        f"t={now}, v1={good}",
        f"t={now},v0=zz,v1={good},v2=later",
        f"t={now},v1={good.upper()}",
    ):
        assert await said(house, BODY, header=header) == "ignored", header


@pytest.mark.parametrize("text", ["plain", "Ärztin ✓ 😀", 'quote " and \\ and /', "\u2028"])
@pytest.mark.parametrize("form", ["raw", "compact", "compact ASCII"])
async def test_raw_and_compact_forms_are_signed(house: Bridge, text: str, form: str) -> None:
    session_id = await house.dictate()
    event = v2_event(session_id) | {"note": text, "n": [1, 2.5, None, True], "z": {"a": {}, "b": []}}
    bodies = {
        "spaced": json.dumps(event, ensure_ascii=False).encode(),
        "escaped": json.dumps(event, indent=2).encode(),
        "compact": json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(),
    }
    for name, body in bodies.items():
        signed = {
            "raw": body,
            "compact": json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(),
            "compact ASCII": json.dumps(event, separators=(",", ":")).encode(),
        }[form]
        answer = await said(house, body, header=signature(body, signed=signed))
        assert answer in {"accepted", "duplicate"}, name


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"event=session.completed", b"\xff\xfe", b'{"a": "\xff"}', b"{}{}", b"\0", b"NaN",
        b"{'a': 1}", b"[" * 60_000, b"[" * 30_000 + b"]" * 30_000, b'{"a": 1e999}', b'{"id": "\xc3"}',
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
async def test_what_is_not_json_is_refused(house: Bridge, body: bytes) -> None:
    problem(await hook(house, body), 400, "invalid_request")
    problem(await hook(house, body, header=signature(body, secret="wrong")), 401, "signature_invalid")


async def test_64_kilobytes_fit_and_no_more(house: Bridge) -> None:
    session_id = await house.dictate()
    event = v2_event(session_id) | {"note": ""}
    event["note"] = "x" * (65_536 - len(json.dumps(event).encode()))
    assert await said(house, json.dumps(event).encode()) == "accepted"
    event["note"] += "x"
    problem(await hook(house, json.dumps(event).encode()), 413, "body_too_large")
    event["note"] *= 40
    body = json.dumps(event).encode()

    async def pieces() -> Any:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    headers = {"Eka-Webhook-Signature": signature(body)}
    async with httpx2.AsyncClient(base_url=house.url, trust_env=False) as client:
        problem(await client.post("/webhooks/eka", content=pieces(), headers=headers), 413, "body_too_large")
    async with wire(house.url) as client:
        await client.send(b"POST /webhooks/eka HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n")
        assert (await client.answer()).status == 413
    (row,) = await events_of(house, session_id)
    assert row["repeats"] == 0


async def test_a_body_that_ends_early_is_no_event(house: Bridge) -> None:
    session_id = await house.dictate()
    body = json.dumps(v2_event(session_id)).encode()
    head = (
        f"POST /webhooks/eka HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) + 5}\r\n"
        f"Eka-Webhook-Signature: {signature(body)}\r\n\r\n"
    )
    async with wire(house.url) as client:
        await client.send(head.encode(), body)
        client.finish_sending()
        answer = await client.closed()
    assert b" 200 " not in answer
    assert b" 500 " not in answer
    assert await events_of(house, session_id) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_other_methods_are_not_taken(house: Bridge, method: str) -> None:
    problem(await house.api.request(method, "/webhooks/eka"), 405, "method_not_allowed")


async def test_an_api_key_is_no_signature(house: Bridge) -> None:
    problem(await house.admin.post("/webhooks/eka", content=BODY), 401, "signature_invalid")


async def test_all_secrets_count_while_they_rotate(database_url: str, redis_url: str) -> None:
    async with open_bridge(
        database_url, redis_url, webhook_secrets=("new", "old"), webhook_tolerance_seconds=10
    ) as bridge:
        for secret, status in (("new", 200), ("old", 200), ("older", 401), (WEBHOOK_SECRET, 401)):
            answer = await hook(bridge, BODY, header=signature(BODY, secret=secret))
            assert answer.status_code == status, secret
        for age, status in ((5, 200), (-5, 200), (15, 401), (-15, 401)):
            header = signature(BODY, secret="old", at=int(time.time()) - age)
            assert (await hook(bridge, BODY, header=header)).status_code == status, age


async def test_unsigned_only_where_it_is_allowed(database_url: str, redis_url: str) -> None:
    async with open_bridge(
        database_url, redis_url, webhook_secrets=(), webhook_allow_unsigned=True
    ) as bridge:
        assert (await hook(bridge, BODY, header="")).status_code == 200
    async with open_bridge(database_url, redis_url, webhook_secrets=()) as bridge:
        for header in ("", signature(BODY, secret=""), signature(BODY)):
            problem(await hook(bridge, BODY, header=header), 401, "signature_invalid")


async def test_the_vendors_own_webhooks_are_accepted(bridge: Bridge) -> None:
    session_id = await bridge.dictate()
    for shape in ("nested", "flat", "flat-event-type", "v2", "protocol"):
        for form in ("raw", "compact", "compact-ascii"):
            answer = await bridge.vendor.post(
                "/_control/webhooks/send",
                json={
                    "url": f"{bridge.url}/webhooks/eka",
                    "session_id": session_id,
                    "secret": WEBHOOK_SECRET,
                    "shape": shape,
                    "sign": form,
                    "header": "X-MSA-Signature" if shape == "protocol" else "Eka-Webhook-Signature",
                    "data": {"note": "Ärztin"},
                },
            )
            (one,) = answer.json()["answers"]
            assert one["status"] == 200, (shape, form, one)
            assert json.loads(one["body"])["status"] in {"accepted", "duplicate"}
