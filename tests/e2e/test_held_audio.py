"""Audio and sessions that EkaScribe does not take now are held, and reach it when it is back."""

import hashlib
import os
from collections.abc import AsyncIterator

import pytest

from tests.support.api_calls import clear_faults, problem
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until

AWAY = {"mode": "reset", "times": None}


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    async with open_bridge(database_url, redis_url) as opened:
        yield opened


async def sounds_at_vendor(bridge: Bridge, session_id: str) -> dict[str, str]:
    """The names and hashes of the files that the vendor has."""
    seen = await bridge.seen(session_id)
    return {file["name"]: file["sha256"] for file in seen["files"]}


async def held_bytes(bridge: Bridge) -> int:
    row = await bridge.database.fetchrow("SELECT coalesce(sum(bytes), 0) AS held FROM audio_blocks")
    return int(row["held"])


async def test_chunks_are_held_while_the_vendor_is_away_and_arrive_once_it_is_back(bridge: Bridge) -> None:
    await bridge.add_destination()
    sounds = [os.urandom(3_000_000), os.urandom(1_048_576), b"short"]
    session = await bridge.create()
    first = await bridge.put(session["id"], 0, sounds[0])
    assert (first.status_code, first.json()["state"]) == (200, "stored")

    await bridge.fault("/voice/v1/sessions/", **AWAY)
    for sequence in (1, 2):
        held = await bridge.put(session["id"], sequence, sounds[sequence])
        assert (held.status_code, held.json()["state"]) == (200, "held"), held.text
    again = await bridge.put(session["id"], 2, sounds[2])
    assert (again.status_code, again.json()["state"]) == (200, "held")
    problem(await bridge.put(session["id"], 2, b"other"), 409, "chunk_conflict")
    ended = await bridge.end(session["id"], chunks=3)
    assert (ended.status_code, ended.json()["status"]) == (202, "processing")
    assert ended.json()["chunks_received"] == 3
    problem(await bridge.put(session["id"], 3, b"late"), 409, "session_ended")
    stored = await bridge.database.fetch("SELECT data_sealed FROM audio_blocks")
    assert not any(b"short" in row["data_sealed"] for row in stored)

    await bridge.start_worker()
    await clear_faults(bridge)
    await bridge.reach(session["id"], "completed")
    hashes = {f"{n}.wav": hashlib.sha256(sound).hexdigest() for n, sound in enumerate(sounds)}
    assert await sounds_at_vendor(bridge, session["id"]) == hashes
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["type"] == "document.ready"
    assert await bridge.calls("/end$", "POST") == 1
    assert await held_bytes(bridge) == 0


async def test_a_session_begins_while_the_vendor_is_away(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.fault("/voice/v1/", **AWAY)
    created = await bridge.api.post(
        "/v1/sessions", json={"reference": "ENC-7"}, headers={"idempotency-key": "one"}
    )
    assert (created.status_code, created.json()["status"]) == (201, "created")
    session_id = created.json()["id"]
    repeated = await bridge.api.post(
        "/v1/sessions", json={"reference": "ENC-7"}, headers={"idempotency-key": "one"}
    )
    assert (repeated.status_code, repeated.headers["idempotency-replayed"]) == (201, "true")
    held = await bridge.put(session_id, 0, b"all of it")
    assert (held.status_code, held.json()["state"]) == (200, "held")
    assert (await bridge.end(session_id, chunks=1)).status_code == 202

    await bridge.start_worker()
    await clear_faults(bridge)
    await bridge.reach(session_id, "completed")
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["data"]["reference"] == "ENC-7"
    assert await bridge.calls("/voice/v1/sessions$", "POST") >= 1
    assert list(await sounds_at_vendor(bridge, session_id)) == ["0.wav"]


async def test_a_chunk_that_comes_after_the_vendor_is_back_needs_no_hold(bridge: Bridge) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", **AWAY)
    assert (await bridge.put(session["id"], 0, b"one")).json()["state"] == "held"
    await clear_faults(bridge)
    await bridge.start_worker()

    async def is_handed_over() -> bool:
        return await held_bytes(bridge) == 0

    await until(is_handed_over)
    assert (await bridge.put(session["id"], 1, b"two")).json()["state"] == "stored"
    assert (await bridge.end(session["id"], chunks=2)).status_code == 202
    await bridge.reach(session["id"], "completed")


async def test_more_than_may_be_held_is_refused_as_before(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url, held_audio_max_bytes=10_485_760) as bridge:
        session = await bridge.create()
        await bridge.fault("/voice/v1/sessions/", **AWAY)
        assert (await bridge.put(session["id"], 0, bytes(5_000_000))).json()["state"] == "held"
        refused = await bridge.put(session["id"], 1, bytes(5_000_000))
        problem(refused, 503, "vendor_unavailable")
        await bridge.start_worker()
        await clear_faults(bridge)

        async def has_room() -> bool:
            return (await bridge.put(session["id"], 1, bytes(5_000_000))).status_code == 200

        await until(has_room)


async def test_erasure_and_cancel_reach_held_audio(bridge: Bridge) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", **AWAY)
    assert (await bridge.put(session["id"], 0, b"secret")).json()["state"] == "held"
    assert (await bridge.api.delete(f"/v1/sessions/{session['id']}")).status_code == 202
    assert await held_bytes(bridge) == 0
    await clear_faults(bridge)
    worker = await bridge.start_worker()
    await worker.stop()
    assert await sounds_at_vendor(bridge, session["id"]) == {}


async def test_a_session_whose_audio_nobody_takes_for_a_day_fails_and_says_so(bridge: Bridge) -> None:
    await bridge.add_destination()
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", **AWAY)
    assert (await bridge.put(session["id"], 0, b"kept")).json()["state"] == "held"
    assert (await bridge.end(session["id"], chunks=1)).status_code == 202
    await bridge.database.execute("UPDATE sessions SET held_since = now() - interval '1 day'")
    await bridge.start_worker()
    failed = await bridge.reach(session["id"], "failed")
    assert failed["error"]["code"] == "vendor_unavailable"
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["type"] == "session.failed"
    assert await held_bytes(bridge) == 4
