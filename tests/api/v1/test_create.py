"""POST /v1/sessions: what is accepted, what is refused, and what a failing vendor leaves behind."""

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.api_calls import clear_faults, invalid, problem, request_head, rows_of, wire
from tests.support.bridge import Bridge
from tests.support.due_calls import make_due_calls

JSON = {"content-type": "application/json"}
FIELDS = {
    "id", "status", "upload", "templates", "mode", "model", "languages", "transcript_language", "patient",
    "reference", "metadata", "audio_url", "chunks_received", "created_at", "expires_at", "ended_at",
    "completed_at", "transcript", "documents", "deliveries", "error",
}  # fmt: skip


async def effective_creates(house: Bridge, session_id: str) -> None:
    """The vendor made this session once, and nothing damaged it."""
    seen = await house.seen(session_id)
    assert seen["creates"] == 1
    assert seen["damaged"] is False


@pytest.mark.parametrize(
    ("content", "headers"), [(b"", {}), (b"", JSON), (b"{}", JSON), (b"{}", {}), (b" {} \n", JSON)]
)
async def test_every_field_is_optional(house: Bridge, content: bytes, headers: dict[str, str]) -> None:
    answer = await house.api.post("/v1/sessions", content=content, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert "idempotency-replayed" not in answer.headers
    session = answer.json()
    assert set(session) >= FIELDS
    assert re.fullmatch(r"ses_[A-Za-z0-9]+", session["id"])
    assert 16 <= len(session["id"]) <= 32
    assert session["status"] == "created"
    assert session["upload"] == "chunked"
    assert session["templates"] == ["eka_emr_template"]
    assert session["mode"] == "dictation"
    assert session["audio_url"] == f"{house.url}/v1/sessions/{session['id']}/audio"
    assert session["chunks_received"] == 0
    assert session["documents"] == []
    assert session["deliveries"] == {"pending": 0, "delivered": 0, "dead": 0}
    for name in ("patient", "reference", "ended_at", "completed_at", "transcript", "error"):
        assert session[name] is None, name
    assert session["metadata"] == {}
    for name in ("created_at", "expires_at"):
        assert session[name].endswith("Z"), name
    created, expires = (datetime.fromisoformat(session[name]) for name in ("created_at", "expires_at"))
    assert abs((datetime.now(UTC) - created).total_seconds()) < 30
    assert 3000 < (expires - created).total_seconds() <= 3700


async def test_every_field_is_kept_and_reaches_the_vendor(house: Bridge) -> None:
    request = {
        "templates": ["clinical_notes_template", "soap.v2:long-name_1"],
        "mode": "consultation",
        "model": "lite",
        "languages": ["hi", "en-IN"],
        "transcript_language": "en",
        "upload": "chunked",
        "patient": {"id": "PAT-1", "name": "Asha Räo 😀", "age": 41, "allergies": ["dust"]},
        "reference": "ENC-Ω-1",
        "metadata": {"ward": "7", "nested": {"deep": [1, 2.5, None, True]}},
    }
    session = await house.create(**request)
    assert {name: session[name] for name in request} == request
    assert (await house.session(session["id"])) == session
    seen = await house.seen(session["id"])
    assert seen["session_id"] == session["id"]
    assert seen["templates"] == request["templates"]
    assert seen["mode"] == "consultation"
    assert seen["model"] == "lite"
    assert seen["languages"] == request["languages"]
    assert seen["patient"] == {"oid": "PAT-1", "name": "Asha Räo 😀", "age": 41, "allergies": ["dust"]}
    assert {"ward": "7"}.items() <= seen["additional_data"].items()
    await effective_creates(house, session["id"])


async def test_the_patients_id_is_what_the_vendor_indexes_by(house: Bridge) -> None:
    session = await house.create(patient={"id": "PAT-1", "oid": "SOMEBODY-ELSE"})
    assert (await house.seen(session["id"]))["patient"]["oid"] == "PAT-1"


async def test_tenant_defaults_fill_the_rest(house: Bridge) -> None:
    other = await house.tenant(
        "defaults",
        templates=["a_template", "b_template"],
        mode="consultation",
        model="lite",
        languages=["hi"],
        transcript_language="hi",
    )
    session = (await other.post("/v1/sessions", json={"model": "pro"})).json()
    assert session["templates"] == ["a_template", "b_template"]
    assert session["mode"] == "consultation"
    assert session["model"] == "pro"
    assert session["languages"] == ["hi"]
    assert session["transcript_language"] == "hi"


async def test_without_templates_and_defaults_none_is_asked_for(house: Bridge) -> None:
    other = await house.tenant("bare")
    session = (await other.post("/v1/sessions", json={})).json()
    assert session["templates"] == []
    seen = await house.seen(session["id"])
    assert seen["templates"] == []
    assert seen["languages"], "the vendor demands a language"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("templates", "eka_emr_template"),
        ("templates", []),
        ("templates", ["a", "b", "c"]),
        ("templates", ["a", "a"]),
        ("templates", {"0": "a"}),
        ("templates", 1),
        ("mode", "shouting"),
        ("mode", 1),
        ("mode", ["dictation"]),
        ("mode", ""),
        ("model", "max"),
        ("model", {}),
        ("languages", "en"),
        ("languages", {"en": 1}),
        ("languages", ["en"] * 11),
        ("transcript_language", 5),
        ("transcript_language", "not a language"),
        ("transcript_language", "en\n"),
        ("transcript_language", "en\0"),
        ("upload", "carrier"),
        ("upload", None),
        ("upload", 0),
        ("patient", "PAT-1"),
        ("patient", ["PAT-1"]),
        ("patient", 7),
        ("reference", 7),
        ("reference", ""),
        ("reference", "r" * 257),
        ("reference", ["ENC"]),
        ("reference", {}),
        ("reference", True),
        ("metadata", "text"),
        ("metadata", [1]),
        ("metadata", 1),
        ("metadata", True),
    ],
)
async def test_a_wrong_value_names_its_field(house: Bridge, field: str, value: Any) -> None:
    answer = await house.api.post("/v1/sessions", json={field: value})
    invalid(answer, field)
    assert await rows_of(house) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("templates", [1]),
        ("templates", [None]),
        ("templates", [""]),
        ("templates", ["has space"]),
        ("templates", ["a/b"]),
        ("templates", ["a?b"]),
        ("templates", ["ünïcode"]),
        ("templates", ["a\0b"]),
        ("templates", ["a\n"]),
        ("templates", ["a" * 129]),
        ("languages", ["english language"]),
        ("languages", [5]),
        ("languages", ["e\0"]),
        ("languages", ["en\n"]),
        ("patient.id", 5),
        ("patient.id", ""),
        ("patient.id", None),
        ("patient.name", ["x"]),
    ],
)
async def test_a_wrong_value_inside_names_its_field(house: Bridge, field: str, value: Any) -> None:
    outer, _, inner = field.partition(".")
    answer = await house.api.post("/v1/sessions", json={outer: {inner: value} if inner else value})
    found = invalid(answer)
    assert found["errors"][0]["field"].startswith(field), found["errors"]
    assert await rows_of(house) == []


@pytest.mark.parametrize("field", ["surprise", "session_id", "id", "upload_type", "Mode", "_x"])
async def test_an_unknown_field_is_refused_by_name(house: Bridge, field: str) -> None:
    answer = await house.api.post("/v1/sessions", json={"reference": "ENC-1", field: 1})
    invalid(answer, field)
    assert await rows_of(house) == []


@pytest.mark.parametrize(
    "request_fields",
    [
        {"mode": "Asha Rao"},
        {"Asha Rao": 1},
        {"languages": ["Asha Rao"]},
        {"templates": ["Asha Rao"]},
        {"upload": "Asha Rao"},
        {"patient": "Asha Rao"},
    ],
)
async def test_a_refusal_repeats_nothing_that_was_sent(house: Bridge, request_fields: dict[str, Any]) -> None:
    answer = await house.api.post("/v1/sessions", json=request_fields)
    assert invalid(answer)["errors"]
    assert "Asha" not in answer.text


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"}",
        b"[]",
        b'["templates"]',
        b'"text"',
        b"5",
        b"true",
        b"{}{}",
        b"{'reference': 'x'}",
        b'{"reference": "\xff\xfe"}',
        b'{"reference": "\xc3"}',
        b'{"reference": "\\ud800"}',
        b'{"reference": "line\nbreak"}',
        b'{"reference": NaN}',
        b'{"metadata": {"a": NaN}}',
        b'{"metadata": {"a": Infinity}}',
        b'{"metadata": {"a": 1e999}}',
        b'\xef\xbb\xbf{"reference": "BOM"}',
        '{"reference": "x"}'.encode("utf-16"),
        b"\x00",
        b'{"reference": "x"}\x00',
        b"\xff" * 100,
        b"reference=x",
    ],
)
async def test_what_is_not_json_is_refused(house: Bridge, content: bytes) -> None:
    invalid(await house.api.post("/v1/sessions", content=content, headers=JSON))
    assert await rows_of(house) == []


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]
)
async def test_json_under_another_name_breaks_nothing(house: Bridge, media_type: str) -> None:
    answer = await house.api.post(
        "/v1/sessions", content=b'{"reference": "x"}', headers={"content-type": media_type}
    )
    assert answer.status_code in {201, 400, 415}, answer.text


@pytest.mark.parametrize("depth", [1500, 20_000, 60_000])
@pytest.mark.parametrize("field", ["metadata", "templates", "reference", "unknown"])
async def test_deeply_nested_json_is_refused(house: Bridge, depth: int, field: str) -> None:
    half = min(depth, 30_000)
    content = b'{"%s": {"a": %s%s}}' % (field.encode(), b"[" * half, b"]" * half)
    invalid(await house.api.post("/v1/sessions", content=content, headers=JSON))
    assert await rows_of(house) == []


async def test_no_depth_of_nesting_is_a_fault_of_ours(house: Bridge) -> None:
    codes = set()
    for depth in range(880, 1010, 3):
        content = b'{"metadata": {"a": %s%s}}' % (b"[" * depth, b"]" * depth)
        codes.add((await house.api.post("/v1/sessions", content=content, headers=JSON)).status_code)
    assert codes <= {201, 400}


async def test_five_megabytes_of_json_are_refused(house: Bridge) -> None:
    content = json.dumps({"metadata": {"a": "x" * 5_000_000}}).encode()
    problem(await house.api.post("/v1/sessions", content=content, headers=JSON), 413, "body_too_large")

    async def pieces() -> Any:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    problem(await house.api.post("/v1/sessions", content=pieces(), headers=JSON), 413, "body_too_large")
    assert await rows_of(house) == []


async def test_too_large_is_said_before_the_body_comes(house: Bridge) -> None:
    async with wire(house.url) as client:
        await client.send(
            request_head(
                house, "POST", "/v1/sessions", Content_Type="application/json", Content_Length="5000000"
            )
        )
        answer = await client.answer()
    assert answer.status == 413
    assert answer.json()["code"] == "body_too_large"


@pytest.mark.parametrize("letter", ["x", "é", "😀", '"'])
async def test_metadata_may_have_4096_bytes(house: Bridge, letter: str) -> None:
    width = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    room = 4096 - len(b'{"a":""}')
    letters = letter * (room // width)
    fits = letters + "x" * (room - len(letters) * width)
    session = await house.create(metadata={"a": fits})
    assert session["metadata"] == {"a": fits}
    refused = await house.api.post("/v1/sessions", json={"metadata": {"a": fits + "x"}})
    invalid(refused, "metadata")


@pytest.mark.parametrize(
    "request_fields",
    [
        {"reference": "a\0b"},
        {"reference": "\0"},
        {"patient": {"id": "a\0b", "name": "c\0d"}},
        {"metadata": {"a\0b": "c\0d"}},
        {"metadata": {"a": "\u2028\ufeff\u0001"}},
    ],
)
async def test_nul_in_a_text_is_kept_or_refused_but_breaks_nothing(
    house: Bridge, request_fields: dict[str, Any]
) -> None:
    answer = await house.api.post("/v1/sessions", json=request_fields)
    if answer.status_code != 201:
        invalid(answer)
        assert await rows_of(house) == []
        return
    session = await house.session(answer.json()["id"])
    assert {name: session[name] for name in request_fields} == request_fields
    found = await house.api.get("/v1/sessions")
    assert [each["id"] for each in found.json()["items"]] == [session["id"]]


@pytest.mark.parametrize(
    "number",
    ["9223372036854775808", "-9223372036854775809", "1" * 400, "1" * 3900, "1" * 4010, "1e308", "-0"],
)
async def test_huge_numbers_break_nothing(house: Bridge, number: str) -> None:
    content = f'{{"metadata": {{"n": {number}}}}}'.encode()
    answer = await house.api.post("/v1/sessions", content=content, headers=JSON)
    assert answer.status_code in {201, 400}, answer.text
    if answer.status_code == 201:
        again = await house.session(answer.json()["id"])
        assert again["metadata"] == json.loads(content)["metadata"]


async def test_sessions_created_at_once_are_distinct(house: Bridge) -> None:
    sessions = await asyncio.gather(*(house.create(reference=str(number)) for number in range(20)))
    assert len({session["id"] for session in sessions}) == 20
    assert len(await rows_of(house)) == 20
    await asyncio.gather(*(effective_creates(house, session["id"]) for session in sessions))


TRANSIENT = {
    "500": {"status": 500},
    "500 after": {"status": 500, "when": "after"},
    "502 after": {"status": 502, "when": "after"},
    "503": {"status": 503, "headers": {"Retry-After": "0"}},
    "503 after": {"status": 503, "when": "after"},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "reset": {"mode": "reset"},
    "reset without reading": {"mode": "reset", "read_body": False},
    "reset after": {"mode": "reset", "when": "after"},
    "half an answer": {"mode": "half_json"},
    "not json": {"status": 201, "body": "<html>", "when": "after"},
}


@pytest.mark.parametrize("name", TRANSIENT)
async def test_one_failure_of_the_vendor_is_not_seen(house: Bridge, name: str) -> None:
    await house.fault("^/voice/v1/sessions$", method="POST", **TRANSIENT[name])
    session = await house.create(reference=name)
    assert [row["id"] for row in await rows_of(house)] == [session["id"]]
    assert (await rows_of(house))[0]["owed"] is None
    await effective_creates(house, session["id"])
    assert (await house.put(session["id"], 0)).status_code == 200


async def test_expired_tokens_are_renewed_once(house: Bridge) -> None:
    await house.create()
    logins = await house.calls("/connect-auth/v1/account/")
    await house.vendor.post("/_control/tokens/expire", json={})
    sessions = await asyncio.gather(*(house.create() for _ in range(8)))
    for session in sessions:
        await effective_creates(house, session["id"])
    assert await house.calls("/connect-auth/v1/account/") == logins + 1


OUTAGES: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "502": {"status": 502},
    "503": {"status": 503},
    "503 later": {"status": 503, "headers": {"Retry-After": "30"}},
    "429 later": {"status": 429, "headers": {"Retry-After": "60"}},
    "reset": {"mode": "reset"},
    "html": {"status": 200, "body": "<html>"},
}


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("name", OUTAGES)
async def test_a_create_during_an_outage_is_answered_and_made_once_after_it(
    house: Bridge, name: str, takes_effect: bool
) -> None:
    fault = OUTAGES[name]
    # The create is answered so once, and so is every look at whether it took effect.
    effect = {"when": "after"} if takes_effect else {}
    await house.fault("^/voice/v1/sessions$", method="POST", times=None, **fault, **effect)
    await house.fault("^/voice/v1/sessions/", method="GET", times=None, **fault)
    headers = {"Idempotency-Key": f"outage-{name}-{takes_effect}".replace(" ", "-")}
    started = time.monotonic()
    held = await house.api.post("/v1/sessions", json={"reference": "E"}, headers=headers)
    assert time.monotonic() - started < 5
    assert (held.status_code, held.json()["status"]) == (201, "created"), held.text
    again = await house.api.post("/v1/sessions", json={"reference": "E"}, headers=headers)
    assert again.json() == held.json()
    assert again.headers["idempotency-replayed"] == "true"
    await clear_faults(house)
    await make_due_calls(house)
    assert [row["owed"] for row in await rows_of(house)] == [None]
    await effective_creates(house, held.json()["id"])


@pytest.mark.parametrize("asked", ["soon", "-5", "", "Fri, 99 Foo 9999 99:99:99 GMT", "1" * 400, "\xe9"])
async def test_an_odd_retry_after_of_the_vendor_does_no_harm(house: Bridge, asked: str) -> None:
    session_id = (await house.create())["id"]
    await house.fault("^/voice/v1/sessions", times=None, status=503, headers={"Retry-After": asked})
    answer = await house.api.patch(f"/v1/sessions/{session_id}", json={"languages": ["hi"]})
    problem(answer, 503, "vendor_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 86_400
    # One that gets through, so that the failures of these tests are not taken for a vendor that is down.
    await clear_faults(house)
    await house.create()


async def test_a_refusal_of_the_vendor_is_final_and_told(house: Bridge) -> None:
    headers = {"Idempotency-Key": "refused"}
    for _ in range(2):
        answer = await house.api.post("/v1/sessions", json={"templates": ["no_such_one"]}, headers=headers)
        found = problem(answer, 502, "vendor_error")
        assert found["vendor_status"] == 400
        assert found["vendor_code"] == "bad_request"
        assert "idempotency-replayed" not in answer.headers
    assert {row["status"] for row in await rows_of(house)} == {"failed"}
    assert {row["owed"] for row in await rows_of(house)} == {None}
    listed = (await house.api.get("/v1/sessions")).json()["items"]
    assert all(session["error"]["code"] == "vendor_error" for session in listed)


async def test_wrong_credentials_are_our_vendors_matter(bridge: Bridge) -> None:
    await bridge.vendor_settings(clients={})
    headers = {"Idempotency-Key": "login"}
    problem(await bridge.api.post("/v1/sessions", json={}, headers=headers), 502, "vendor_error")
    await bridge.vendor_settings(clients={"sandbox": "sandbox-secret"})
    answer = await bridge.api.post("/v1/sessions", json={}, headers=headers)
    assert answer.status_code == 201, answer.text
    await effective_creates(bridge, answer.json()["id"])
