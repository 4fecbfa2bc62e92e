"""Uploads by file name: numbers, formats, forms in disguise, and refusals (docs/vendor.md#upload-errors)."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2
import pytest

from service.eka.audio_formats import PUBLISHED_FORMATS
from tests.support.api_calls import chunks_of, expire
from tests.support.bridge import Bridge, random_bytes
from tests.support.medscribe_clients import envelope, form, python_client

WAV = b"RIFF" + bytes(range(256)) * 4


async def begin(house: Bridge, **fields: Any) -> str:
    body = {"upload_type": "chunked", "communication_protocol": "http"} | fields
    found: str = (await house.api.post("/voice/v1/sessions", json=body)).json()["session_id"]
    return found


async def upload(
    house: Bridge, session: str, name: str, content: Any = WAV, media_type: str | None = "audio/wav"
) -> httpx2.Response:
    headers = {"content-type": media_type} if media_type is not None else {}
    return await house.api.post(
        f"/voice/v1/sessions/{session}/audio/{name}", content=content, headers=headers
    )


async def files(house: Bridge, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await house.seen(session))["files"]
    return found


async def test_the_answer_is_the_seed_s_and_the_bytes_are_the_client_s(house: Bridge) -> None:
    session = await begin(house)
    answer = await upload(house, session, "audio_0.wav")
    assert answer.status_code == 200
    assert answer.json() == {
        "session_id": session,
        "success": True,
        "original_filename": "audio_0.wav",
    }
    (stored,) = await files(house, session)
    assert stored["sha256"] == hashlib.sha256(WAV).hexdigest()
    (row,) = await chunks_of(house, session)
    assert (row["sequence"], row["status"], row["bytes"]) == (0, "stored", len(WAV))


@pytest.mark.parametrize(
    ("name", "sequence", "sent_as"),
    [
        ("audio_0.wav", 0, "audio_0.wav"),
        ("my_long_base_17.wav", 17, "audio_17.wav"),
        ("1.mp3", 1, "audio_1.mp3"),
        ("CHUNK_3.WAV", 3, "audio_3.wav"),
        ("audio_007.m4a", 7, "audio_7.m4a"),
        ("_2.ogg", 2, "audio_2.ogg"),
    ],
)
async def test_the_number_in_the_name_is_the_sequence(
    house: Bridge, name: str, sequence: int, sent_as: str
) -> None:
    session = await begin(house)
    answer = await upload(house, session, name, media_type=None)
    assert answer.status_code == 200, answer.text
    assert answer.json()["original_filename"] == name
    (stored,) = await files(house, session)
    assert stored["original_name"] == sent_as
    (row,) = await chunks_of(house, session)
    assert row["sequence"] == sequence


@pytest.mark.parametrize("name", ["audio.wav", "1_audio.wav", "audio_first.wav", "audio_100000.wav", "0"])
async def test_a_name_without_a_number_is_a_mistake(house: Bridge, name: str) -> None:
    session = await begin(house)
    error = envelope(await upload(house, session, name), 400, "invalid_request")
    assert "file_name" in error["message"]
    assert await chunks_of(house, session) == []


@pytest.mark.parametrize(
    ("name", "media_type", "as_vendor"),
    [
        ("a_0.webm", "audio/webm; codecs=opus", "audio/webm;codecs=opus"),
        ("a_0.webm", "Audio/WebM", "audio/webm;codecs=opus"),
        ("a_0.mp3", "audio/mpeg", "audio/mp3"),
        ("a_0.wav", "audio/x-wav", "audio/wav"),
        ("a_0.wav", "application/octet-stream", "audio/wav"),
        ("a_0.webm", None, "audio/webm;codecs=opus"),
        ("a_0.m4a", "audio/mp4", "audio/mp4"),  # the Python client's word for it
        ("a_0.webm", "audio/mp3", "audio/mp3"),  # what the TypeScript client says of all its files
    ],
)
async def test_the_format_is_what_the_header_says_or_else_the_name(
    house: Bridge, name: str, media_type: str | None, as_vendor: str
) -> None:
    session = await begin(house)
    assert (await upload(house, session, name, media_type=media_type)).status_code == 200
    (stored,) = await files(house, session)
    assert stored["content_type"] == as_vendor
    assert stored["name"].rpartition(".")[2] == name.rpartition(".")[2]


@pytest.mark.parametrize(
    ("name", "media_type", "provided"),
    [
        ("a_0.flac", "audio/flac", "audio/flac"),
        ("a_0.flac", None, "a_0.flac"),
        ("a_0.wav", "text/plain", "text/plain"),
        ("a_0.webm", "audio/webm;codecs=vorbis", "audio/webm;codecs=vorbis"),
    ],
)
async def test_a_format_that_nobody_takes(
    house: Bridge, name: str, media_type: str | None, provided: str
) -> None:
    session = await begin(house)
    error = envelope(await upload(house, session, name, media_type=media_type), 400, "invalid_audio_format")
    assert error["details"]["provided_format"] == provided
    assert error["details"]["supported_formats"] == list(PUBLISHED_FORMATS)


async def test_the_same_bytes_again_are_harmless_and_others_are_refused(house: Bridge) -> None:
    session = await begin(house)
    first = await upload(house, session, "audio_0.wav")
    again = await upload(house, session, "rec_0.wav")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json()["original_filename"] == "rec_0.wav"
    envelope(await upload(house, session, "audio_0.wav", WAV + b"!"), 409, "chunk_conflict")
    (stored,) = await files(house, session)
    assert stored["uploads"] == 1


async def test_nothing_is_no_audio(house: Bridge) -> None:
    session = await begin(house)
    envelope(await upload(house, session, "audio_0.wav", b""), 400, "audio_empty")
    body, kind = form({}, "audio_0.wav", b"")
    envelope(await upload(house, session, "audio_0.wav", body, kind), 400, "audio_empty")


async def test_too_much_is_413_raw_or_in_a_form(house: Bridge) -> None:
    session = await begin(house)
    most = house.settings.chunk_max_bytes
    envelope(await upload(house, session, "audio_0.wav", b"R" * (most + 1)), 413, "chunk_too_large")
    body, kind = form({}, "audio_0.wav", b"R" * (most + 1))
    envelope(await upload(house, session, "audio_0.wav", body, kind), 413, "chunk_too_large")
    body, kind = form({}, "audio_0.wav", b"R" * most)
    assert (await upload(house, session, "audio_0.wav", body, kind)).status_code == 200


async def test_after_the_end_there_is_no_audio(house: Bridge) -> None:
    session = await begin(house)
    await upload(house, session, "audio_0.wav")
    await house.api.post(f"/voice/v1/sessions/{session}/end", json={"audio_files_sent": 1})
    envelope(await upload(house, session, "audio_1.wav"), 400, "session_ended")
    await house.database.execute(
        "UPDATE sessions SET status = 'completed', settled_at = now() WHERE id = $1", session
    )
    envelope(await upload(house, session, "audio_1.wav"), 400, "session_completed")


async def test_after_its_hour_there_is_no_audio(house: Bridge) -> None:
    session = await begin(house)
    await expire(house, session)
    envelope(await upload(house, session, "audio_0.wav"), 410, "session_expired")


async def test_an_unknown_session(house: Bridge) -> None:
    answer = await upload(house, "ses_does_not_exist_000", "audio_0.wav")
    error = envelope(answer, 404, "session_not_found")
    assert error["details"]["session_id"] == "ses_does_not_exist_000"


async def test_a_form_s_file_is_taken_out_of_it(house: Bridge) -> None:
    session = await begin(house)
    body, kind = form({"note": "x"}, "whatever.bin", WAV, "audio/wav")
    answer = await upload(house, session, "audio_0.wav", body, kind)
    assert answer.status_code == 200, answer.text
    (stored,) = await files(house, session)
    assert stored["sha256"] == hashlib.sha256(WAV).hexdigest()
    assert stored["content_type"] == "audio/wav"


@pytest.mark.parametrize(
    ("part_type", "as_vendor"), [("audio/mp3", "audio/mp3"), ("", "audio/webm;codecs=opus")]
)
async def test_a_form_labelled_as_audio_is_seen_for_what_it_is(
    house: Bridge, part_type: str, as_vendor: str
) -> None:
    content = random_bytes(300_000)
    session = await begin(house)
    body, _ = form({}, "1.mp3", content, part_type)
    answer = await upload(house, session, "1.mp3", body, "audio/webm;codecs=opus")
    assert answer.status_code == 200, answer.text
    (stored,) = await files(house, session)
    assert stored["sha256"] == hashlib.sha256(content).hexdigest()
    assert stored["content_type"] == as_vendor
    assert stored["original_name"] == "audio_1.mp3"


async def test_a_form_without_a_name_in_the_path_names_its_file_itself(house: Bridge) -> None:
    session = await begin(house)
    body, kind = form({}, "C:\\dictation\\audio_4.wav", WAV, "audio/wav")
    answer = await house.api.post(
        f"/voice/v1/sessions/{session}/audio", content=body, headers={"content-type": kind}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["original_filename"] == "audio_4.wav"
    (row,) = await chunks_of(house, session)
    assert row["sequence"] == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body[:-30],
        lambda body: body.replace(b"form-data", b"formless"),
        lambda body: body.replace(b'name="file"; filename="audio_0.wav"', b'name="note"'),
        lambda body: body + body[: body.rindex(b"\r\n--")],
    ],
)
async def test_a_broken_form_stores_nothing(house: Bridge, spoil: Any) -> None:
    session = await begin(house)
    body, kind = form({}, "audio_0.wav", WAV, "audio/wav")
    spoiled = spoil(body)
    answer = await upload(house, session, "audio_0.wav", spoiled, kind)
    if spoiled.startswith(body):
        assert answer.status_code == 200  # what follows the last boundary is nobody's
        return
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in {"invalid_request", "audio_truncated"}
    assert await chunks_of(house, session) == []


async def test_audio_that_begins_with_dashes_stays_audio(house: Bridge) -> None:
    session = await begin(house)
    for sequence, content in enumerate((b"-", b"--", b"--x\r\nno form", b"--" + bytes(5000))):
        assert (await upload(house, session, f"a_{sequence}.wav", content)).status_code == 200
    stored = [each["sha256"] for each in await files(house, session)]
    assert stored[1] == hashlib.sha256(b"--").hexdigest()


async def test_a_second_client_finds_the_same_rows(house: Bridge) -> None:
    session = await begin(house)
    await upload(house, session, "audio_0.wav")
    assert (await house.put(session, 1, b"more")).status_code == 200
    client = await python_client(house)
    _, found = await client.get(session)
    assert found["audio_files"] == ["0.wav", "1.wav"]
    assert found["audio_files_received"] == 2


async def test_a_single_file_is_a_chunk_at_the_vendor_which_a_repeat_overwrites(house: Bridge) -> None:
    """A `single` file that is sent twice doubles the dictation (docs/vendor.md#single): none is ever sent."""
    session = await begin(house, upload_type="single")
    await house.fault(f"{session}/audio/", when="after", mode="reset")
    assert (await upload(house, session, "whole recording.wav")).status_code == 200
    assert await house.calls(f"{session}/audio/audio_0.wav$", "POST") == 2
    seen = await house.seen(session)
    assert seen["additional_data"]["_protocol"]["upload_type"] == "chunked"
    assert [each["sha256"] for each in seen["files"]] == [hashlib.sha256(WAV).hexdigest()]


async def test_a_stream_takes_no_files(house: Bridge) -> None:
    session = await begin(house, upload_type="stream", communication_protocol="websocket")
    envelope(await upload(house, session, "audio_0.wav"), 409, "wrong_upload_type")
