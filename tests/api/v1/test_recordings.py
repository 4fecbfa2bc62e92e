"""POST /v1/recordings: its form, errors and Idempotency-Key, and that a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem, request_head, rows_of, wire
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until
from tests.support.whole_recordings import SPEECH, form_of, send_recording, speech

WEBM = SPEECH.with_suffix(".webm")


async def keeps_nothing(house: Bridge) -> None:
    """Nothing of a refused call is in the database."""
    assert await rows_of(house) == []
    for table in ("recordings", "audio_blocks", "idempotency_keys"):
        query = f"SELECT count(*) FROM {table} WHERE tenant_id = $1"
        assert await house.database.fetchval(query, house.tenant_id) == 0, table


def by_hand(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> dict[str, Any]:
    """A form of exactly these parts."""
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in parts
    )
    return {"content": body + end, "headers": {"content-type": "multipart/form-data; boundary=b"}}


async def test_the_session_has_what_was_asked_for(house: Bridge) -> None:
    asked = {
        "reference": "ENC-1",
        "patient": {"id": "P-1", "name": "Asha Rao"},
        "metadata": {"ward": "7"},
        "templates": ["clinical_notes_template"],
        "mode": "consultation",
        "model": "lite",
        "languages": ["hi"],
    }
    sent = await send_recording(house.api, WEBM.read_bytes(), **asked)
    assert sent.status_code == 202, sent.text
    session = sent.json()
    assert {name: session[name] for name in asked} == asked
    assert session["recording"]["bytes"] == WEBM.stat().st_size
    assert session["recording"]["seconds"] == pytest.approx(23.2, abs=0.1)
    assert session["ended_at"] is not None
    read = await house.api.get(f"/v1/sessions/{session['id']}")
    assert read.json() == session


async def test_the_content_decides_and_no_name_or_type(house: Bridge) -> None:
    for media_type in ("audio/mp4", "text/plain", "nonsense"):
        sent = await house.api.post("/v1/recordings", files=form_of(speech(1), {}, media_type))
        assert sent.status_code == 202, sent.text
    fake = await house.api.post("/v1/recordings", files=form_of(b"<html>" * 99, {}, "audio/wav"))
    problem(fake, 400, "recording_unreadable")


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no form": ({"content": b"RIFF", "headers": {"content-type": "audio/wav"}}, 400, "invalid_request"),
    "no boundary": (
        {"content": b"--b", "headers": {"content-type": "multipart/form-data"}},
        400,
        "invalid_request",
    ),
    "no parts": (by_hand(), 400, "invalid_request"),
    "no session": (by_hand(("audio", b"RIFF")), 400, "invalid_request"),
    "wrong order": (by_hand(("audio", b"RIFF"), ("session", b"{}")), 400, "invalid_request"),
    "two sessions": (by_hand(("session", b"{}"), ("session", b"{}")), 400, "invalid_request"),
    "two recordings": (
        by_hand(("session", b"{}"), ("audio", speech(1)), ("audio", speech(1))),
        400,
        "invalid_request",
    ),
    "unknown part": (by_hand(("session", b"{}"), ("transcript", b"x")), 400, "invalid_request"),
    "no audio": (by_hand(("session", b"{}")), 409, "audio_missing"),
    "empty audio": (by_hand(("session", b"{}"), ("audio", b"")), 400, "audio_empty"),
    "no last boundary": (
        by_hand(("session", b"{}"), ("audio", speech(1)), end=b""),
        400,
        "audio_truncated",
    ),
    "not JSON": (by_hand(("session", b"{"), ("audio", speech(1))), 400, "invalid_request"),
    "unknown field": (by_hand(("session", b'{"upload": "chunked"}')), 400, "invalid_request"),
    "a template twice": (by_hand(("session", b'{"templates": ["a", "a"]}')), 400, "invalid_request"),
    "large session": (by_hand(("session", b" " * 70_000)), 413, "body_too_large"),
    "unreadable": (by_hand(("session", b"{}"), ("audio", b"no audio" * 999)), 400, "recording_unreadable"),
    "cut off": (
        by_hand(("session", b"{}"), ("audio", WEBM.read_bytes()[:300])),
        400,
        "recording_unreadable",
    ),
    "too long": (
        by_hand(("session", b'{"model": "lite"}'), ("audio", speech(601))),
        400,
        "recording_too_long",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_call_leaves_nothing_behind(house: Bridge, name: str) -> None:
    request, status, code = REFUSED[name]
    request["headers"] = request["headers"] | {"idempotency-key": "one"}
    problem(await house.api.post("/v1/recordings", **request), status, code)
    await keeps_nothing(house)


async def test_errors_name_the_field_and_the_figures(house: Bridge) -> None:
    wrong = await house.api.post("/v1/recordings", **by_hand(("session", b'{"model": "huge"}')))
    invalid(wrong, "model")
    unknown = await house.api.post("/v1/recordings", **by_hand(("session", b'{"upload": "chunked"}')))
    invalid(unknown, "upload")
    invalid(await house.api.post("/v1/recordings", **by_hand(("transcript", b"x"))), "transcript")
    long = await send_recording(house.api, speech(601), model="lite")
    found = problem(long, 400, "recording_too_long")
    assert (found["seconds"], found["max_seconds"]) == (601.0, 600)
    assert "601" in found["detail"]
    assert "600" in found["detail"]


async def test_a_wrong_session_is_refused_before_the_audio_is_read(house: Bridge) -> None:
    form = by_hand(("session", b'{"model": "huge"}'))["content"].removesuffix(b"--b--\r\n")
    form += b'--b\r\nContent-Disposition: form-data; name="audio"\r\n\r\n'
    async with wire(house.url) as client:
        headers = {"Content_Length": "1000000", "Content_Type": "multipart/form-data; boundary=b"}
        await client.send(request_head(house, "POST", "/v1/recordings", **headers) + form)
        assert (await client.answer()).status == 400


async def test_a_client_that_leaves_in_the_middle_begins_nothing(house: Bridge) -> None:
    form = form_head() + speech(5)[:50_000]
    async with wire(house.url) as client:
        headers = {"Content_Length": "1000000", "Content_Type": "multipart/form-data; boundary=b"}
        await client.send(request_head(house, "POST", "/v1/recordings", **headers) + form)
    sent = await send_recording(house.api, speech(1))
    assert sent.status_code == 202
    assert [row["id"] for row in await rows_of(house)] == [sent.json()["id"]]


def form_head() -> bytes:
    """The form up to the first byte of its audio."""
    head = by_hand(("session", b"{}"))["content"].removesuffix(b"--b--\r\n")
    return bytes(head) + b'--b\r\nContent-Disposition: form-data; name="audio"\r\n\r\n'


async def test_a_repeat_with_the_same_key_gets_the_first_answer(house: Bridge) -> None:
    audio = speech(2)
    first = await send_recording(house.api, audio, key="one", reference="ENC-1")
    again = await send_recording(house.api, audio, key="one", reference="ENC-1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content
    assert len(await rows_of(house)) == 1
    problem(await send_recording(house.api, audio, key="one", reference="X"), 422, "idempotency_key_reused")
    problem(
        await send_recording(house.api, speech(3), key="one", reference="ENC-1"),
        422,
        "idempotency_key_reused",
    )
    assert (await house.api.delete(f"/v1/sessions/{first.json()['id']}")).status_code == 202
    problem(await send_recording(house.api, audio, key="one", reference="ENC-1"), 410, "session_erased")
    # A key belongs to one kind of call.
    created = await house.api.post("/v1/sessions", json={}, headers={"idempotency-key": "one"})
    assert created.status_code == 201


async def test_repeats_at_the_same_time_make_one_session(house: Bridge) -> None:
    audio = speech(2)
    answers = await asyncio.gather(*(send_recording(house.api, audio, key="one") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await rows_of(house)) == 1
    assert await house.database.fetchval("SELECT count(*) FROM recordings") >= 1


async def test_a_repeat_finds_the_session_although_the_first_process_died_before_it_answered(
    house: Bridge,
) -> None:
    audio = speech(2)
    first = await send_recording(house.api, audio, key="one")
    await house.database.execute(
        "UPDATE idempotency_keys SET answer_sealed = NULL, lease = gen_random_uuid(), lease_until = now()"
        " WHERE tenant_id = $1",
        house.tenant_id,
    )
    again = await send_recording(house.api, audio, key="one")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert len(await rows_of(house)) == 1


async def test_the_calls_of_chunked_sessions_do_not_fit(house: Bridge) -> None:
    session = (await send_recording(house.api, speech(1))).json()
    problem(await house.put(session["id"], 0), 409, "wrong_upload_type")
    ended = await house.end(session["id"])
    assert (ended.status_code, ended.json()["id"]) == (202, session["id"])
    problem(
        await house.api.patch(f"/v1/sessions/{session['id']}", json={"patient": {"id": "X"}}),
        409,
        "session_ended",
    )


async def test_other_tenants_see_nothing_of_it(house: Bridge) -> None:
    session = (await send_recording(house.api, speech(1), key="one")).json()
    other = await house.tenant("two")
    problem(await other.get(f"/v1/sessions/{session['id']}"), 404, "not_found")
    theirs = await send_recording(other, speech(1), key="one")
    assert theirs.status_code == 202
    assert theirs.json()["id"] != session["id"]


async def test_a_recording_is_kept_encrypted_and_goes_with_an_erasure(house: Bridge) -> None:
    audio = speech(40)
    session = (await send_recording(house.api, audio)).json()
    query = "SELECT sequence, bytes, data_sealed FROM audio_blocks WHERE session_id = $1 ORDER BY block"
    blocks = await house.database.fetch(query, session["id"])
    assert {row["sequence"] for row in blocks} == {-1}
    assert sum(row["bytes"] for row in blocks) == len(audio)
    assert not any(audio[1000:1032] in row["data_sealed"] for row in blocks)
    assert (await house.api.delete(f"/v1/sessions/{session['id']}")).status_code == 202
    assert await house.database.fetch(query, session["id"]) == []
    left = "SELECT count(*) FROM recordings WHERE session_id = $1"
    assert await house.database.fetchval(left, session["id"]) == 0


@pytest.fixture(scope="module")
def small() -> dict[str, int]:
    return {"recording_max_bytes": 1_048_576, "held_audio_max_bytes": 10_485_760}


async def test_limits_of_size(database_url: str, redis_url: str, small: dict[str, int]) -> None:
    async with open_bridge(database_url, redis_url, **small) as bridge:
        audio = speech(20)
        assert (await send_recording(bridge.api, audio)).status_code == 202
        found = problem(await send_recording(bridge.api, speech(40)), 413, "recording_too_large")
        assert "1048576" in found["detail"]
        # Without Content-Length the same limit counts while the body is read.
        form = form_head() + speech(40)

        async def pieces() -> Any:
            for at in range(0, len(form), 65_536):
                yield form[at : at + 65_536]

        headers = {"content-type": "multipart/form-data; boundary=b"}
        refused = await bridge.api.post("/v1/recordings", content=pieces(), headers=headers)
        problem(refused, 413, "recording_too_large")
        # One tenant may use half of the room for held audio.
        await bridge.database.execute("UPDATE audio_blocks SET bytes = 5000000")

        async def is_full() -> bool:
            refused = await send_recording(bridge.api, audio)
            return refused.status_code == 503 and refused.json()["code"] == "overloaded"

        await until(is_full)
        assert await bridge.database.fetchval("SELECT count(*) FROM sessions") >= 1
        other = await bridge.tenant("two")
        assert (await send_recording(other, audio)).status_code == 202


async def test_a_full_disk_is_said_at_once(database_url: str, redis_url: str) -> None:
    limits = {"max_spool_bytes": 4_194_304, "chunk_max_bytes": 1_048_576}
    async with open_bridge(database_url, redis_url, **limits) as bridge:
        problem(await send_recording(bridge.api, speech(100)), 413, "recording_too_large")
        assert (await send_recording(bridge.api, speech(80))).status_code == 202


async def test_the_session_shows_in_lists(house: Bridge) -> None:
    session = (await send_recording(house.api, speech(1), reference="ENC-9")).json()
    await house.create(reference="ENC-8")
    found = (await house.api.get("/v1/sessions", params={"reference": "ENC-9"})).json()["items"]
    assert [each["id"] for each in found] == [session["id"]]
    assert found[0]["recording"] == session["recording"]
    (other,) = (await house.api.get("/v1/sessions", params={"reference": "ENC-8"})).json()["items"]
    assert "recording" not in other


async def test_a_key_that_is_no_key_is_refused_before_the_audio_is_read(house: Bridge) -> None:
    form = form_head()
    async with wire(house.url) as client:
        headers = {"Content_Length": "1000000", "Content_Type": "multipart/form-data; boundary=b"}
        headers["Idempotency_Key"] = "two words"
        await client.send(request_head(house, "POST", "/v1/recordings", **headers) + form)
        answer = await client.answer()
    assert (answer.status, b"idempotency_key_invalid" in answer.body) == (400, True)
