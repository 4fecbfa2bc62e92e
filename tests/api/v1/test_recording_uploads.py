"""`recording_url`: tus 1.0, spoken by hand; its offsets, its lease, its errors."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx2
import pytest

from service.bootstrap.container import open_stores
from tests.support.api_calls import invalid, problem, request_head, wire
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until
from tests.support.whole_recordings import speech

TUS = {"tus-resumable": "1.0.0"}
PIECE = TUS | {"content-type": "application/offset+octet-stream"}
AUDIO = speech(80)  # 2.5 MB


async def new_upload(house: Bridge, length: int | None = len(AUDIO), **fields: Any) -> tuple[str, str]:
    """Create a session and begin its upload; return the session's id and the upload's URL."""
    session = await house.create(upload="recording", **fields)
    if length is not None:
        begun = await house.api.post(session["recording_url"], headers=TUS | {"upload-length": str(length)})
        assert (begun.status_code, begun.headers["location"]) == (201, session["recording_url"]), begun.text
    return session["id"], session["recording_url"]


async def send(house: Bridge, url: str, offset: int, content: bytes, **headers: str) -> httpx2.Response:
    """Send one piece."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await house.api.patch(url, content=content, headers=PIECE | {"upload-offset": str(offset)} | given)


async def offset_of(house: Bridge, url: str) -> int:
    answer = await house.api.head(url, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def checksum(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


async def test_a_recording_in_three_pieces(house: Bridge) -> None:
    session_id, url = await new_upload(house, reference="ENC-1")
    assert await offset_of(house, url) == 0
    ends = (1_500_000, 1_500_007, len(AUDIO))
    for start, end in zip((0, *ends), ends, strict=False):
        sent = await send(house, url, start, AUDIO[start:end])
        assert (sent.status_code, sent.headers["upload-offset"]) == (204, str(end)), sent.text
        assert sent.headers["tus-resumable"] == "1.0.0"
        assert await offset_of(house, url) == end
        session = await house.session(session_id)
        assert session["recording"]["bytes"] == end
        assert session["status"] == ("recording" if end < len(AUDIO) else "processing")
    assert "recording_url" not in session
    assert session["upload"] == "recording"
    assert session["ended_at"] is not None
    assert await house.calls(session_id) == 0, "EkaScribe gets the session from a worker"
    query = "SELECT count(*), sum(bytes) FROM audio_blocks WHERE session_id = $1 AND sequence = -1"
    assert tuple(await house.database.fetchrow(query, session_id)) == (5, len(AUDIO))


async def test_the_length_may_come_with_a_piece(house: Bridge) -> None:
    session_id, url = await new_upload(house, None)
    asked = await house.api.head(url, headers=TUS)
    assert (asked.headers["upload-defer-length"], "upload-length" in asked.headers) == ("1", False)
    assert (await send(house, url, 0, AUDIO[:1000])).status_code == 204
    assert (await send(house, url, 1000, b"", upload_length=str(len(AUDIO)))).status_code == 204
    assert (await house.api.head(url, headers=TUS)).headers["upload-length"] == str(len(AUDIO))
    problem(await send(house, url, 1000, b"x", upload_length="5000"), 409, "upload_offset_wrong")
    assert (await send(house, url, 1000, AUDIO[1000:])).status_code == 204
    assert (await house.session(session_id))["status"] == "processing"


async def test_a_length_that_is_reached_already_makes_it_whole(house: Bridge) -> None:
    session_id, url = await new_upload(house, None)
    assert (await send(house, url, 0, AUDIO)).status_code == 204
    assert (await house.session(session_id))["status"] == "recording"
    assert (await send(house, url, len(AUDIO), b"", upload_length=str(len(AUDIO)))).status_code == 204
    assert (await house.session(session_id))["status"] == "processing"


async def test_checksums(house: Bridge) -> None:
    _, url = await new_upload(house)
    wrong = await send(house, url, 0, AUDIO[:1000], upload_checksum=checksum(b"other"))
    problem(wrong, 460, "upload_checksum_wrong")
    assert wrong.headers["tus-resumable"] == "1.0.0"
    assert await offset_of(house, url) == 0
    for start, end, algorithm in ((0, 1000, "sha1"), (1000, len(AUDIO), "sha256")):
        given = checksum(AUDIO[start:end], algorithm)
        assert (await send(house, url, start, AUDIO[start:end], upload_checksum=given)).status_code == 204
    for bad in ("md5 " + "A" * 22 + "==", "sha256", "sha256 ???", ""):
        invalid(await send(house, url, 0, b"x", upload_checksum=bad), "Upload-Checksum")


async def test_what_is_refused(house: Bridge) -> None:
    _, url = await new_upload(house)
    problem(await send(house, url, 5, b"x"), 409, "upload_offset_wrong")
    problem(await send(house, url, 0, b"x", content_type="audio/wav"), 415, "invalid_audio_format")
    problem(await send(house, url, 0, AUDIO + b"more"), 413, "recording_too_large")
    invalid(await send(house, url, 0, b"x", upload_offset="-1"), "Upload-Offset")
    missing = await house.api.patch(url, content=b"x", headers=PIECE)
    invalid(missing, "Upload-Offset")
    invalid(await house.api.post(url, headers=TUS), "Upload-Length")
    for method in ("HEAD", "POST", "PATCH", "DELETE"):
        old = await house.api.request(method, url, headers={"tus-resumable": "0.2.2"})
        assert (old.status_code, old.headers["tus-version"]) == (412, "1.0.0"), method
    problem(await house.api.post(url, headers=TUS | {"upload-length": "0"}), 400, "audio_empty")
    huge = await house.api.post(url, headers=TUS | {"upload-length": str(2**40)})
    problem(huge, 413, "recording_too_large")


async def test_options_say_what_is_spoken(house: Bridge) -> None:
    _, url = await new_upload(house)
    answer = await house.api.options(url)
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-defer-length",
        "checksum",
        "termination",
    }
    assert set(answer.headers["tus-checksum-algorithm"].split(",")) == {"sha1", "sha256"}
    assert int(answer.headers["tus-max-size"]) > 1_000_000_000


async def test_a_client_without_patch_sends_post(house: Bridge) -> None:
    session_id, url = await new_upload(house, 5)
    headers = PIECE | {"upload-offset": "0", "x-http-method-override": "PATCH"}
    sent = await house.api.post(url, content=b"audio", headers=headers)
    assert (sent.status_code, sent.headers["upload-offset"]) == (204, "5")
    assert (await house.session(session_id))["status"] == "processing"


async def test_two_pieces_at_once_are_one_too_many(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    path = "/" + url.split("/", 3)[3]
    headers = {"Tus_Resumable": "1.0.0", "Content_Type": PIECE["content-type"], "Upload_Offset": "0"}
    async with wire(house.url) as first:
        await first.send(request_head(house, "PATCH", path, Content_Length="2000", **headers) + AUDIO[:1000])

        lease = "SELECT lease FROM recording_uploads WHERE session_id = $1"
        await until(lambda: house.database.fetchval(lease, session_id))
        problem(await send(house, url, 0, b"other bytes"), 423, "upload_busy")
        await first.send(AUDIO[1000:2000])
        assert (await first.answer()).status == 204
    assert await offset_of(house, url) == 2000


async def test_what_came_before_a_break_stays(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    path = "/" + url.split("/", 3)[3]
    headers = {"Tus_Resumable": "1.0.0", "Content_Type": PIECE["content-type"], "Upload_Offset": "0"}
    async with wire(house.url) as client:
        head = request_head(house, "PATCH", path, Content_Length=str(len(AUDIO)), **headers)
        await client.send(head + AUDIO[:1_500_000])

    async def is_stored() -> bool:
        return await offset_of(house, url) == 1_500_000

    async def is_continued() -> bool:
        return (await send(house, url, 1_500_000, AUDIO[1_500_000:])).status_code == 204

    await until(is_stored)
    await until(is_continued)
    assert (await house.session(session_id))["status"] == "processing"


async def test_a_new_beginning_forgets_what_was_there(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    assert (await send(house, url, 0, AUDIO[:2_000_000])).status_code == 204
    begun = await house.api.post(url, headers=TUS | {"upload-length": "5"})
    assert begun.status_code == 201
    assert await offset_of(house, url) == 0
    assert (await send(house, url, 0, b"audio")).status_code == 204
    query = "SELECT sum(bytes) FROM audio_blocks WHERE session_id = $1"
    assert await house.database.fetchval(query, session_id) == 5
    problem(await house.api.post(url, headers=TUS | {"upload-length": "5"}), 409, "session_ended")
    problem(await send(house, url, 5, b""), 409, "session_ended")


async def test_giving_up_cancels_the_session_without_a_call_to_the_vendor(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    await send(house, url, 0, AUDIO[:1000])
    gone = await house.api.delete(url, headers=TUS)
    assert (gone.status_code, gone.headers["tus-resumable"]) == (204, "1.0.0")
    assert (await house.api.head(url, headers=TUS)).status_code == 410
    problem(await send(house, url, 1000, b"x"), 410, "upload_gone")
    assert (await house.session(session_id))["status"] == "cancelled"
    assert (
        await house.database.fetchval("SELECT count(*) FROM audio_blocks WHERE session_id = $1", session_id)
        == 0
    )
    assert await house.calls(session_id) == 0


async def test_an_upload_that_was_never_finished_expires_and_its_bytes_are_deleted(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    await send(house, url, 0, AUDIO[:1000])
    other_id, other_url = await new_upload(house)
    await send(house, other_url, 0, AUDIO[:1000])
    third_id, third_url = await new_upload(house)
    await send(house, third_url, 0, AUDIO[:1000])
    assert (await house.api.delete(f"/v1/sessions/{third_id}")).status_code == 202
    await house.database.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = $1", session_id
    )
    problem(await send(house, url, 1000, b"x"), 410, "upload_gone")
    await house.start_worker()
    expired = await house.reach(session_id, "expired")
    assert "recording_url" not in expired
    async with open_stores(house.settings) as stores:
        await stores.recording_uploads.delete_over()
    query = "SELECT session_id FROM audio_blocks WHERE session_id = ANY($1)"
    left = await house.database.fetch(query, [session_id, other_id])
    assert [row["session_id"] for row in left] == [other_id]
    assert (await house.api.head(url, headers=TUS)).status_code == 410


async def test_pieces_stop_where_no_more_audio_may_be_held(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url, held_audio_max_bytes=10_485_760) as bridge:
        _, url = await new_upload(bridge, length=None)

        async def is_full() -> bool:
            return (await send(bridge, url, await offset_of(bridge, url), AUDIO[:900_000])).status_code == 503

        await until(is_full)
        # One tenant may use half of the room.
        assert await bridge.database.fetchval("SELECT sum(bytes) FROM audio_blocks") <= 10_485_760 // 2


async def test_the_other_ways_to_send_audio_do_not_fit(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    problem(await house.put(session_id, 0), 409, "wrong_upload_type")
    problem(await house.end(session_id), 409, "audio_missing")
    changed = await house.api.patch(f"/v1/sessions/{session_id}", json={"patient": {"id": "P"}})
    problem(changed, 409, "session_not_ready")
    chunked = await house.create()
    assert "recording_url" not in chunked
    other = url.replace(session_id, chunked["id"])
    assert (await house.api.head(other, headers=TUS)).status_code == 404
    problem(await send(house, other, 0, b"x"), 404, "not_found")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "DELETE"])
async def test_another_tenant_finds_no_upload(house: Bridge, method: str) -> None:
    session_id, url = await new_upload(house)
    other = await house.tenant("two")
    headers = PIECE | {"upload-offset": "0", "upload-length": "5"}
    answer = await other.request(method, url, headers=headers, content=b"" if method == "HEAD" else b"audio")
    assert answer.status_code == 404
    assert (await house.session(session_id))["recording"]["bytes"] == 0


async def test_an_erasure_ends_an_upload(house: Bridge) -> None:
    session_id, url = await new_upload(house)
    await send(house, url, 0, AUDIO[:1000])
    assert (await house.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    problem(await send(house, url, 1000, AUDIO[1000:]), 410, "session_erased")
    for table in ("audio_blocks", "recording_uploads"):
        count = f"SELECT count(*) FROM {table} WHERE session_id = $1"
        assert await house.database.fetchval(count, session_id) == 0


async def test_an_idempotency_key_brings_the_same_url(house: Bridge) -> None:
    headers = {"idempotency-key": "one"}
    first = await house.api.post("/v1/sessions", json={"upload": "recording"}, headers=headers)
    again = await house.api.post("/v1/sessions", json={"upload": "recording"}, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json()["recording_url"] == again.json()["recording_url"]
