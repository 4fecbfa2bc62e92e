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
