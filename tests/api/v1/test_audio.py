"""PUT /v1/sessions/{id}/audio/{sequence}: each byte at the vendor, or nothing at all."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import (
    call_arrived,
    chunk_head,
    chunks_of,
    clear_faults,
    expire,
    invalid,
    problem,
    wire,
)
from tests.support.bridge import Bridge, random_bytes
from tests.support.due_calls import make_due_calls

MOST = 10 * 1024 * 1024
SUPPORTED = {
    "audio/webm;codecs=opus", "audio/wav", "audio/ogg", "audio/ogg;codecs=opus", "audio/mp4", "audio/m4a",
    "audio/mp3",
}  # fmt: skip


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def nothing_stored(house: Bridge, session_id: str) -> None:
    """Neither we nor the vendor hold a chunk of this session."""
    session = await house.session(session_id)
    assert session["chunks_received"] == 0
    assert session["status"] == "created"
    assert [row for row in await chunks_of(house, session_id) if row["status"] == "stored"] == []
    assert (await house.seen(session_id))["files"] == []


async def pieces_of(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def test_a_chunk_is_stored_and_at_the_vendor(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    content = random_bytes(5000)
    answer = await house.put(session_id, 3, content)
    assert answer.status_code == 200
    assert answer.json() == {
        "sequence": 3,
        "bytes": 5000,
        "sha256": sha256(content),
        "file_name": "audio_3.wav",
        "state": "stored",
    }
    session = await house.session(session_id)
    assert session["status"] == "recording"
    assert session["chunks_received"] == 1
    (row,) = await chunks_of(house, session_id)
    assert (row["status"], row["bytes"], row["sha256"].hex()) == ("stored", 5000, sha256(content))
    (file,) = (await house.seen(session_id))["files"]
    assert (file["original_name"], file["bytes"], file["sha256"]) == ("audio_3.wav", 5000, sha256(content))
    assert file["content_type"] == "audio/wav"


async def test_the_same_bytes_again_are_a_no_op(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    first = await house.put(session_id, 0, b"same")
    for media_type in ("audio/wav", "audio/x-wav", "audio/mpeg"):
        again = await house.put(session_id, 0, b"same", media_type)
        assert again.status_code == 200
        assert again.json() == first.json()
    (file,) = (await house.seen(session_id))["files"]
    assert file["uploads"] == 1
    assert (await house.session(session_id))["chunks_received"] == 1


@pytest.mark.parametrize("media_type", ["audio/wav", "audio/ogg"])
async def test_other_bytes_under_a_stored_sequence_conflict(house: Bridge, media_type: str) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0, b"first")
    problem(await house.put(session_id, 0, b"other", media_type), 409, "chunk_conflict")
    (file,) = (await house.seen(session_id))["files"]
    assert (file["uploads"], file["latest"]["sha256"]) == (1, sha256(b"first"))
    (row,) = await chunks_of(house, session_id)
    assert row["sha256"].hex() == sha256(b"first")


@pytest.mark.parametrize(
    ("spelling", "vendors", "extension"),
    [
        ("audio/webm;codecs=opus", "audio/webm;codecs=opus", "webm"),
        ("audio/webm", "audio/webm;codecs=opus", "webm"),
        ("audio/webm; codecs=opus", "audio/webm;codecs=opus", "webm"),
        ('audio/webm; codecs="opus"', "audio/webm;codecs=opus", "webm"),
        ("AUDIO/WebM ; Codecs=Opus", "audio/webm;codecs=opus", "webm"),
        ("audio/webm;rate=48000; codecs=opus", "audio/webm;codecs=opus", "webm"),
        ("audio/wav", "audio/wav", "wav"),
        ("audio/x-wav", "audio/wav", "wav"),
        ("audio/wave", "audio/wav", "wav"),
        ("audio/vnd.wave; codec=1", "audio/wav", "wav"),
        ("Audio/WAV", "audio/wav", "wav"),
        ("audio/ogg", "audio/ogg", "ogg"),
        ("audio/ogg; codecs=opus", "audio/ogg;codecs=opus", "ogg"),
        ("audio/ogg;codecs=opus", "audio/ogg;codecs=opus", "ogg"),
        ("audio/mp4", "audio/mp4", "mp4"),
        ("audio/m4a", "audio/m4a", "m4a"),
        ("audio/x-m4a", "audio/m4a", "m4a"),
        ("audio/mp3", "audio/mp3", "mp3"),
        ("audio/mpeg", "audio/mp3", "mp3"),
        ("AUDIO/MPEG;", "audio/mp3", "mp3"),
    ],
)
async def test_every_spelling_reaches_the_vendor_as_its_own(
    house: Bridge, spelling: str, vendors: str, extension: str
) -> None:
    session_id = (await house.create())["id"]
    answer = await house.put(session_id, 0, b"sound", spelling)
    assert answer.status_code == 200, answer.text
    assert answer.json()["file_name"] == f"audio_0.{extension}"
    (file,) = (await house.seen(session_id))["files"]
    assert file["content_type"] == vendors
    assert file["original_name"] == f"audio_0.{extension}"


@pytest.mark.parametrize(
    "media_type",
    [
        "audio/flac", "audio/aac", "video/webm", "application/octet-stream", "application/json", "audio/*",
        "audio/wav, audio/ogg", "wav", "audio/", "/", ";", "audio/webm;codecs=vorbis",
        "multipart/form-data; boundary=x", "audio wav", "audio/ogg;codecs=flac",
    ],
)  # fmt: skip
async def test_another_format_is_refused(house: Bridge, media_type: str) -> None:
    session_id = (await house.create())["id"]
    answer = await house.api.put(
        f"/v1/sessions/{session_id}/audio/0",
        content=b"sound",
        headers=[(b"content-type", media_type.encode("latin-1"))],
    )
    found = problem(answer, 415, "invalid_audio_format")
    assert set(found["supported"]) == SUPPORTED
    await nothing_stored(house, session_id)


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("content-encoding", "gzip", 415, "invalid_audio_format"),
        ("content-range", "bytes 0-3/100", 400, "invalid_request"),
    ],
)
async def test_audio_that_is_compressed_or_a_part_is_refused(
    house: Bridge, name: str, value: str, status: int, code: str
) -> None:
    session_id = (await house.create())["id"]
    headers = {"content-type": "audio/wav", name: value}
    answer = await house.api.put(f"/v1/sessions/{session_id}/audio/0", content=b"RIFF", headers=headers)
    problem(answer, status, code)
    path = f"/voice/v1/sessions/{session_id}/audio/audio_0.wav"
    answer = await house.api.post(path, content=b"RIFF", headers=headers)
    assert answer.status_code == 400, answer.text  # the protocol has no 415
    assert await house.calls(f"/sessions/{session_id}/audio") == 0


async def test_no_format_at_all_is_refused(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    answer = await house.api.put(f"/v1/sessions/{session_id}/audio/0", content=b"sound")
    problem(answer, 415, "invalid_audio_format")
    await nothing_stored(house, session_id)


async def test_an_empty_chunk_is_refused(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    problem(await house.put(session_id, 0, b""), 400, "audio_empty")
    head = chunk_head(house, session_id, Transfer_Encoding="chunked")
    async with wire(house.url) as client:
        await client.send(head, b"0\r\n\r\n")
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (400, "audio_empty")
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id))
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (400, "audio_empty")
    await nothing_stored(house, session_id)
    assert (await house.put(session_id, 0, b"x")).status_code == 200


async def test_a_chunk_of_the_greatest_size_is_stored(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    content = random_bytes(MOST)
    answer = await house.put(session_id, 0, content)
    assert answer.status_code == 200, answer.text
    streamed = await house.api.put(
        f"/v1/sessions/{session_id}/audio/1",
        content=pieces_of(content),
        headers={"content-type": "audio/wav"},
    )
    assert streamed.status_code == 200, streamed.text
    files = (await house.seen(session_id))["files"]
    assert [file["sha256"] for file in files] == [sha256(content)] * 2
    assert [file["bytes"] for file in files] == [MOST] * 2


@pytest.mark.parametrize("size", [MOST + 1, 2**31, 2**63 - 1])
async def test_too_large_is_said_before_the_body_comes(house: Bridge, size: int) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length=str(size)))
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (413, "chunk_too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    await nothing_stored(house, session_id)
    assert await house.calls(f"{session_id}/audio") == 0


async def test_too_large_without_a_length_is_said_before_the_end(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Transfer_Encoding="chunked"))
        await client.send(b"%x\r\n" % (MOST + 1), bytes(MOST + 1), b"\r\n")  # and no end
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (413, "chunk_too_large")
    await nothing_stored(house, session_id)
    assert await house.calls(f"{session_id}/audio") == 0


async def test_a_client_that_asks_first_is_told_to_go_on(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length="5", Expect="100-continue"), b"sound")
        answer = await client.answer()
    assert answer.status == 200
    async with wire(house.url) as client:
        head = chunk_head(house, session_id, 1, Content_Length=str(MOST + 1), Expect="100-continue")
        await client.send(head)
        answer = await client.answer()
    assert answer.status == 413


@pytest.mark.parametrize(
    "sequence",
    [
        "-1", "100000", "1e2", "1.0", "+1", "0x1", "x", "%20", "1%20", "%D9%A3", "%EF%BC%91", "%C2%B2", "%00",
        "1%00", "99999999999999999999999999", "%FF", "_1", "1_0", "1%0A", "NaN", "null",
    ],
)  # fmt: skip
async def test_a_sequence_is_a_number_from_0_to_99999(house: Bridge, sequence: str) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, sequence, Content_Length="5"), b"sound")
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (400, "invalid_request")
    assert [error["field"] for error in answer.json()["errors"]] == ["sequence"]
    await nothing_stored(house, session_id)


@pytest.mark.parametrize("sequence", [0, 1, 99_999])
async def test_the_outermost_sequences_are_stored(house: Bridge, sequence: int) -> None:
    session_id = (await house.create())["id"]
    answer = await house.put(session_id, sequence)
    assert answer.status_code == 200
    assert answer.json()["sequence"] == sequence
    assert [row["sequence"] for row in await chunks_of(house, session_id)] == [sequence]


@pytest.mark.parametrize("session_id", ["ses_nosuchsession00000", "x", "%00", "ses_%00", "%FF", "s" * 5000])
async def test_an_unknown_session_is_not_found(house: Bridge, session_id: str) -> None:
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length="5"), b"sound")
        answer = await client.answer()
    assert (answer.status, answer.json()["code"]) == (404, "not_found")


async def test_after_the_end_no_audio_is_taken(house: Bridge) -> None:
    session_id = await house.dictate(chunks=1)
    for sequence, content in ((0, b"audio 0"), (0, b"other"), (1, b"new")):
        problem(await house.put(session_id, sequence, content), 409, "session_ended")
    assert len((await house.seen(session_id))["files"]) == 1
    assert (await house.session(session_id))["chunks_received"] == 1


async def test_after_the_hour_no_audio_is_taken(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await expire(house, session_id)
    problem(await house.put(session_id, 0), 409, "session_expired")
    assert (await house.seen(session_id))["files"] == []


async def test_a_streaming_session_takes_no_chunks(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.database.execute("UPDATE sessions SET upload = 'stream' WHERE id = $1", session_id)
    problem(await house.put(session_id, 0), 409, "wrong_upload_type")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("length", ["100", "5000000"])
async def test_a_client_that_leaves_in_the_middle_stores_nothing(
    house: Bridge, reset: bool, length: str
) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length=length), b"x" * 50)
        if reset:
            client.reset()
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Transfer_Encoding="chunked"), b"32\r\n", b"x" * 50)
        if reset:
            client.reset()
    # The whole chunk under the same sequence meets nothing left behind, and the vendor never saw the half.
    answer = await house.put(session_id, 0, b"the whole")
    assert answer.status_code == 200, answer.text
    (file,) = (await house.seen(session_id))["files"]
    assert (file["uploads"], file["sha256"]) == (1, sha256(b"the whole"))
    assert await house.calls(f"{session_id}/audio") == 1


async def test_a_body_that_ends_early_is_no_chunk(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    for headers in ({"Content_Length": "100"}, {"Transfer_Encoding": "chunked"}):
        async with wire(house.url) as client:
            await client.send(chunk_head(house, session_id, **headers), b"5\r\nsound")
            client.finish_sending()
            said = await client.closed()
        assert b" 200 " not in said
    await nothing_stored(house, session_id)
    assert await house.calls(f"{session_id}/audio") == 0


@pytest.mark.parametrize(
    "body", [b"zz\r\nsound\r\n0\r\n\r\n", b"-5\r\nsound\r\n0\r\n\r\n", b"5\r\nsoundXX0\r\n\r\n"]
)
async def test_broken_chunked_coding_is_no_chunk(house: Bridge, body: bytes) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Transfer_Encoding="chunked"), body)
        client.finish_sending()
        said = await client.closed()
    assert b" 200 " not in said
    assert b" 500 " not in said
    await nothing_stored(house, session_id)


@pytest.mark.parametrize("length", ["-1", "abc", "5 5", "0x5", "+5", "5, 6", "99999999999999999999999"])
async def test_a_senseless_length_is_refused(house: Bridge, length: str) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length=length), b"sound")
        answer = await client.answer()
    assert answer.status in {400, 413}
    await nothing_stored(house, session_id)


async def test_two_ways_to_tell_the_length_are_refused(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        head = chunk_head(house, session_id, Content_Length="3", Transfer_Encoding="chunked")
        await client.send(head, b"5\r\nsound\r\n0\r\n\r\n")
        answer = await client.answer()
    assert answer.status == 400
    await nothing_stored(house, session_id)


async def test_a_length_shorter_than_the_body_stores_what_it_covers_or_nothing(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length="5"), b"sound and more")
        answer = await client.answer()
        rest = await client.closed()
    assert answer.status in {200, 400}
    assert b" 200 " not in rest
    stored = {row["sha256"].hex() for row in await chunks_of(house, session_id)}
    assert stored <= {sha256(b"sound")}


async def test_the_same_bytes_at_once_are_one_chunk(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    content = random_bytes(200_000)
    answers = await asyncio.gather(*(house.put(session_id, 0, content) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.json()["sha256"] for answer in answers} == {sha256(content)}
    (row,) = await chunks_of(house, session_id)
    assert row["status"] == "stored"
    (file,) = (await house.seen(session_id))["files"]
    assert file["sha256"] == file["latest"]["sha256"] == sha256(content)


async def test_of_other_bytes_at_once_one_wins_whole(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}/audio", delay_seconds=0.2)
    contents = [random_bytes(3000) for _ in range(6)]
    answers = await asyncio.gather(*(house.put(session_id, 0, content) for content in contents))
    winners = [
        content for content, answer in zip(contents, answers, strict=True) if answer.status_code == 200
    ]
    assert len(winners) == 1
    for answer in answers:
        if answer.status_code != 200:
            problem(answer, 409, "chunk_conflict")
    (file,) = (await house.seen(session_id))["files"]
    assert (file["uploads"], file["sha256"]) == (1, sha256(winners[0]))
    (row,) = await chunks_of(house, session_id)
    assert row["sha256"].hex() == sha256(winners[0])
    assert (await house.put(session_id, 0, winners[0])).status_code == 200


async def test_chunks_may_come_at_once_and_in_any_order(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    contents = {sequence: random_bytes(1000 + sequence) for sequence in range(20)}
    answers = await asyncio.gather(
        *(house.put(session_id, sequence, contents[sequence]) for sequence in reversed(range(20)))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert (await house.session(session_id))["chunks_received"] == 20
    files = (await house.seen(session_id))["files"]
    assert [file["sha256"] for file in files] == [sha256(contents[sequence]) for sequence in range(20)]


async def test_an_upload_that_the_end_overtakes_is_told_so(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.fault("audio_1.wav", delay_seconds=0.5)
    late = asyncio.create_task(house.put(session_id, 1, b"late"))
    await call_arrived(house, f"{session_id}/audio/audio_1.wav")
    assert (await house.end(session_id)).status_code == 202
    problem(await late, 409, "session_ended")
    session = await house.session(session_id)
    assert session["chunks_received"] == 1
    seen = await house.seen(session_id)
    assert seen["end_counts"] == [1]
    assert len(seen["files"]) == 1
    assert [row["sequence"] for row in await chunks_of(house, session_id) if row["status"] == "stored"] == [0]


async def test_an_upload_that_ends_after_the_end_is_told_so(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    # The vendor has the bytes, and its answer takes a second to arrive.
    await house.fault("audio_1.wav", mode="drip", drip_seconds=0.01)
    late = asyncio.create_task(house.put(session_id, 1, b"late"))
    deadline = time.monotonic() + 5
    while len((await house.seen(session_id))["files"]) < 2:
        assert time.monotonic() < deadline
    ended = await house.end(session_id)
    assert ended.status_code == 202
    assert not late.done()
    problem(await late, 409, "session_ended")
    assert (await house.session(session_id))["chunks_received"] == ended.json()["chunks_received"] == 1
    assert (await house.seen(session_id))["end_counts"] == [1]


async def test_an_end_that_counts_waits_for_the_upload_under_way(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.fault("audio_1.wav", delay_seconds=0.4)
    late = asyncio.create_task(house.put(session_id, 1, b"late"))
    await call_arrived(house, f"{session_id}/audio/audio_1.wav")
    found = problem(await house.end(session_id, chunks=2), 409, "audio_incomplete")
    assert found["missing"] == [1]
    assert (await late).status_code == 200
    assert (await house.end(session_id, chunks=2)).status_code == 202
    seen = await house.seen(session_id)
    assert (seen["end_counts"], len(seen["files"])) == ([2], 2)


TRANSIENT: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "500 after": {"status": 500, "when": "after"},
    "503": {"status": 503, "headers": {"Retry-After": "0"}},
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "reset": {"mode": "reset"},
    "reset without reading": {"mode": "reset", "read_body": False},
    "reset after": {"mode": "reset", "when": "after"},
    "half a 200": {"mode": "half_json"},
    "a 200 that stored nothing": {"status": 200, "body": {"success": True, "session_id": "ses_other"}},
    "401": {"status": 401, "body": {"detail": "token_expired"}},
    "401 without reading": {"status": 401, "body": {"detail": "token_expired"}, "read_body": False},
}


@pytest.mark.parametrize("name", TRANSIENT)
async def test_one_failure_of_the_vendor_is_not_seen(house: Bridge, name: str) -> None:
    session_id = (await house.create())["id"]
    content = random_bytes(300_000)
    await house.fault(f"{session_id}/audio", **TRANSIENT[name])
    answer = await house.put(session_id, 0, content)
    assert answer.status_code == 200, answer.text
    (file,) = (await house.seen(session_id))["files"]
    assert file["sha256"] == file["latest"]["sha256"] == sha256(content)
    assert (await house.session(session_id))["chunks_received"] == 1


async def test_tokens_that_expired_are_renewed_for_an_upload(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.vendor.post("/_control/tokens/expire", json={})
    content = random_bytes(2_000_000)
    answers = await asyncio.gather(*(house.put(session_id, n, content) for n in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    files = (await house.seen(session_id))["files"]
    assert {file["latest"]["sha256"] for file in files} == {sha256(content)}


OUTAGES: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503": {"status": 503, "headers": {"Retry-After": "30"}},
    "429": {"status": 429, "headers": {"Retry-After": "30"}},
    "reset": {"mode": "reset"},
    "reset after": {"mode": "reset", "when": "after"},
    "half a 200": {"mode": "half_json"},
    "a 200 that says no": {"status": 200, "body": {"success": False}},
}
REFUSALS: dict[str, dict[str, Any]] = {
    "refused": {"status": 413, "body": {"error": {"code": "chunk_too_large"}}},
    "forbidden": {"status": 403, "body": {"detail": "missing_token"}},
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_a_chunk_during_an_outage_is_held_and_handed_over_after_it(house: Bridge, name: str) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}/audio", times=None, **OUTAGES[name])
    answer = await house.put(session_id, 0, b"sound")
    assert (answer.status_code, answer.json()["state"]) == (200, "held"), answer.text
    session = await house.session(session_id)
    assert (session["status"], session["chunks_received"]) == ("recording", 1)
    await clear_faults(house)
    assert (await house.end(session_id, chunks=1)).status_code == 202
    await make_due_calls(house)
    assert (await house.seen(session_id))["end_calls"] == 1
    (file,) = (await house.seen(session_id))["files"]
    assert file["latest"]["sha256"] == sha256(b"sound")


@pytest.mark.parametrize("name", REFUSALS)
async def test_after_a_refusal_the_chunk_may_be_sent_again(house: Bridge, name: str) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}/audio", times=None, **REFUSALS[name])
    problem(await house.put(session_id, 0, b"sound"), 502, "vendor_error")
    session = await house.session(session_id)
    assert (session["status"], session["chunks_received"]) == ("created", 0)
    problem(await house.end(session_id), 409, "audio_missing")
    await clear_faults(house)
    assert (await house.put(session_id, 0, b"sound")).status_code == 200
    assert (await house.end(session_id, chunks=1)).status_code == 202
    (file,) = (await house.seen(session_id))["files"]
    assert file["latest"]["sha256"] == sha256(b"sound")


async def test_after_a_failure_another_format_may_be_tried(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    refusal = {"error": {"code": "invalid_audio_format"}}
    await house.fault(f"{session_id}/audio", status=400, body=refusal)
    problem(await house.put(session_id, 0, b"sound", "audio/mp4"), 502, "vendor_error")
    assert await chunks_of(house, session_id) == []
    assert (await house.put(session_id, 0, b"sound", "audio/m4a")).status_code == 200


@pytest.mark.parametrize("code", ["session_ended", "session_completed", "session_already_committed"])
async def test_what_the_vendor_says_is_ended_is_ended(house: Bridge, code: str) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}/audio", status=400, body={"error": {"code": code, "message": "x"}})
    problem(await house.put(session_id, 0), 409, "session_ended")
    assert await chunks_of(house, session_id) == []


async def test_a_client_that_leaves_while_the_vendor_works_loses_nothing(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}/audio", delay_seconds=0.3)
    async with wire(house.url) as client:
        await client.send(chunk_head(house, session_id, Content_Length="5"), b"sound")
        await call_arrived(house, f"{session_id}/audio")
        client.reset()
    answer = await house.put(session_id, 0, b"sound")
    assert answer.status_code == 200
    (file,) = (await house.seen(session_id))["files"]
    assert file["latest"]["sha256"] == sha256(b"sound")
    assert (await house.end(session_id, chunks=1)).status_code == 202


async def test_other_methods_are_not_taken(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    for method in ("GET", "POST", "DELETE", "PATCH"):
        answer: httpx2.Response = await house.api.request(method, f"/v1/sessions/{session_id}/audio/0")
        problem(answer, 405, "method_not_allowed")


async def test_a_wrong_sequence_names_itself(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    answer = await house.api.put(
        f"/v1/sessions/{session_id}/audio/first", content=b"x", headers={"content-type": "audio/wav"}
    )
    invalid(answer, "sequence")
