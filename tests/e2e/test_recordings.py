"""A whole recording in one call: kept, cut by a worker, handed over, ended; whatever goes away meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.api_calls import clear_faults
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until
from tests.support.whole_recordings import send_recording, speech

AWAY = {"mode": "reset", "times": None}


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    async with open_bridge(database_url, redis_url) as opened:
        yield opened


async def kept_bytes(bridge: Bridge) -> int:
    row = await bridge.database.fetchrow("SELECT coalesce(sum(bytes), 0) AS kept FROM audio_blocks")
    return int(row["kept"])


async def timeline(bridge: Bridge, session_id: str) -> list[dict[str, Any]]:
    answer = await bridge.api.get(f"/v1/sessions/{session_id}/timeline")
    return answer.json()["items"]


async def test_a_recording_becomes_a_document(bridge: Bridge) -> None:
    await bridge.add_destination()
    audio = speech(50)
    sent = await send_recording(bridge.api, audio, reference="ENC-1")
    assert sent.status_code == 202, sent.text
    session = sent.json()
    assert (session["status"], session["upload"], session["reference"]) == (
        "processing",
        "recording",
        "ENC-1",
    )
    assert session["recording"] == {
        "bytes": len(audio),
        "seconds": 50.0,
        "chunks_done": 0,
        "chunks_total": None,
    }
    assert "audio_url" not in session
    assert await bridge.calls("/voice/v1/sessions$", "POST") == 0, "no vendor call in the request"

    await bridge.start_worker()
    completed = await bridge.reach(session["id"], "completed")
    chunks = completed["recording"]["chunks_total"]
    assert chunks >= 3
    assert completed["recording"]["chunks_done"] == completed["chunks_received"] == chunks
    seen = await bridge.seen(session["id"])
    assert len(seen["files"]) == chunks
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["data"]["reference"] == "ENC-1"
    assert await bridge.calls("/end$", "POST") == 1
    types = [entry["type"] for entry in await timeline(bridge, session["id"])]
    assert types.index("recording.received") < types.index("recording.cut") < types.index("chunk.stored")
    assert await kept_bytes(bridge) == 0


async def test_a_recording_that_nobody_took_can_be_read_whole(bridge: Bridge) -> None:
    await bridge.fault("/voice/v1/", **AWAY)
    audio = speech(3)
    session = (await send_recording(bridge.api, audio)).json()
    kept = await bridge.api.get(f"/v1/sessions/{session['id']}/recording")
    assert (kept.status_code, kept.content) == (200, audio)


async def test_a_recording_waits_for_a_vendor_that_is_away(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.fault("/voice/v1/", **AWAY)
    sent = await send_recording(bridge.api, speech(30), reference="ENC-7")
    assert sent.status_code == 202, sent.text
    session_id = sent.json()["id"]
    await bridge.start_worker()
    await until(lambda: bridge.calls("/voice/v1/"))
    assert (await bridge.session(session_id))["status"] == "processing"
    await clear_faults(bridge)
    await bridge.reach(session_id, "completed")
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["data"]["reference"] == "ENC-7"


async def test_a_vendor_that_goes_away_between_the_chunks_gets_all_of_them(bridge: Bridge) -> None:
    await bridge.fault("/audio/1|/1\\.", mode="reset", times=3)
    sent = await send_recording(bridge.api, speech(60))
    await bridge.start_worker()
    completed = await bridge.reach(sent.json()["id"], "completed")
    seen = await bridge.seen(sent.json()["id"])
    assert len(seen["files"]) == completed["recording"]["chunks_total"] >= 3
    assert await bridge.calls("/end$", "POST") == 1


async def test_a_cut_that_was_interrupted_starts_again_and_sends_no_chunk_twice(bridge: Bridge) -> None:
    session_id = (await send_recording(bridge.api, speech(60))).json()["id"]
    # A worker that was killed in the middle leaves some chunks, and its lease runs out.
    await bridge.database.execute(
        "INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name)"
        " SELECT id, n, tenant_id, 'held', sha256(''), 7, 'audio/wav', 'audio_' || n || '.wav'"
        " FROM sessions, generate_series(0, 40) n"
    )
    await bridge.database.execute(
        "INSERT INTO audio_blocks (id, session_id, tenant_id, sequence, block, bytes, data_sealed)"
        " SELECT id || ':0:0', id, tenant_id, 0, 0, 7, '' FROM sessions"
    )
    await bridge.start_worker()
    completed = await bridge.reach(session_id, "completed")
    seen = await bridge.seen(session_id)
    assert len(seen["files"]) == completed["recording"]["chunks_total"] < 40
    assert sum(file["bytes"] for file in seen["files"]) > 40 * 7
    assert await kept_bytes(bridge) == 0


async def test_an_erasure_while_it_waits_removes_all_of_it(bridge: Bridge) -> None:
    session_id = (await send_recording(bridge.api, speech(30))).json()["id"]
    assert (await bridge.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    assert await kept_bytes(bridge) == 0
    worker = await bridge.start_worker()
    ids = "SELECT owed FROM sessions WHERE id = $1"

    async def is_over() -> bool:
        return await bridge.database.fetchval(ids, session_id) is None

    await until(is_over)
    await worker.stop()
    assert await bridge.calls("/audio/", "POST") == 0


async def test_a_recording_that_cannot_be_cut_fails_its_session_and_says_so(bridge: Bridge) -> None:
    await bridge.add_destination()
    session_id = (await send_recording(bridge.api, speech(30))).json()["id"]
    # As if a decoder that is newer than the one that inspected it refused the file.
    await bridge.database.execute("DELETE FROM audio_blocks WHERE session_id = $1", session_id)
    await bridge.start_worker()
    failed = await bridge.reach(session_id, "failed")
    assert failed["error"]["code"] == "recording_unreadable"
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["type"] == "session.failed"


async def test_the_ledger_counts_it(bridge: Bridge) -> None:
    await bridge.add_destination()
    await send_recording(bridge.api, speech(5))
    ledger = (await bridge.api.get("/v1/ledger")).json()
    assert ledger == {"ended": 1, "delivered": 0, "in_flight": 1, "dead": 0, "lost": 0}
    await bridge.start_worker()
    await bridge.received(1)

    async def is_delivered() -> bool:
        return (await bridge.api.get("/v1/ledger")).json()["delivered"] == 1

    await until(is_delivered)


@pytest.mark.parametrize(
    ("audio", "code"), [(speech(601), "recording_too_long"), (b"no audio" * 999, "recording_unreadable")]
)
async def test_a_recording_in_pieces_that_is_no_good_fails_its_session(
    bridge: Bridge, audio: bytes, code: str
) -> None:
    await bridge.add_destination()
    session = await bridge.create(upload="recording", model="lite")
    headers = {
        "tus-resumable": "1.0.0",
        "content-type": "application/offset+octet-stream",
        "upload-offset": "0",
        "upload-length": str(len(audio)),
    }
    sent = await bridge.api.patch(session["recording_url"], content=audio, headers=headers)
    assert sent.status_code == 204, sent.text
    await bridge.start_worker()
    failed = await bridge.reach(session["id"], "failed")
    assert failed["error"]["code"] == code
    (delivery,) = await bridge.received(1)
    assert (delivery["body"]["type"], delivery["body"]["data"]["error"]["code"]) == ("session.failed", code)


async def test_many_recordings_at_once_all_become_documents(bridge: Bridge) -> None:
    await bridge.add_destination()
    sent = [await send_recording(bridge.api, speech(10), reference=f"ENC-{n}") for n in range(6)]
    assert {answer.status_code for answer in sent} == {202}
    await bridge.start_worker()
    deliveries = await bridge.received(6, seconds=40)
    assert {each["body"]["data"]["reference"] for each in deliveries} == {f"ENC-{n}" for n in range(6)}


async def test_a_worker_is_woken_and_needs_no_sweep(bridge: Bridge) -> None:
    await bridge.start_worker(sweep_interval_seconds=60.0)
    first = await bridge.reach((await send_recording(bridge.api, speech(5))).json()["id"], "completed")
    assert first["recording"]["chunks_done"] == 1
    second = await bridge.reach((await send_recording(bridge.api, speech(5))).json()["id"], "completed")
    assert second["recording"]["chunks_done"] == 1
