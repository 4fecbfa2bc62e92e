"""Streams whose vendor is away: the client sees no error, and all audio gives one document."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK

from service.domain.streams.frames import wav_of
from tests.support.api_calls import clear_faults
from tests.support.bridge import Bridge, open_bridge
from tests.support.live_streams import FRAME, arrived, opened
from tests.support.rig import until

AWAY = {"mode": "reset", "times": None}


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    async with open_bridge(database_url, redis_url) as opened_bridge:
        await opened_bridge.add_destination()
        yield opened_bridge


def frames_of(count: int) -> list[bytes]:
    return [secrets.token_bytes(3200) for _ in range(count)]


async def cut(bridge: Bridge, session: dict[str, Any]) -> None:
    answer = await bridge.vendor.post(f"/_control/sessions/{session['id']}/stream", json={"drop": True})
    assert answer.json()["sockets"] == 1


async def second_session(bridge: Bridge, session: dict[str, Any]) -> dict[str, Any]:
    """What the vendor has of the second session, with which it got the audio in chunks."""
    vendor_id = await bridge.database.fetchval(
        "SELECT vendor_session_id FROM sessions WHERE id = $1", session["id"]
    )
    assert vendor_id is not None
    return await bridge.seen(vendor_id)


async def held_bytes(bridge: Bridge) -> int:
    return int(await bridge.database.fetchval("SELECT coalesce(sum(bytes), 0) FROM audio_blocks"))


async def kinds(bridge: Bridge, session: dict[str, Any]) -> list[str]:
    answer = await bridge.api.get(f"/v1/sessions/{session['id']}/timeline")
    return [entry["type"] for entry in answer.json()["items"] if entry["type"].startswith("stream.")]


async def document_arrives_once(bridge: Bridge, session: dict[str, Any]) -> None:
    await bridge.reach(session["id"], "completed", seconds=40)
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["type"] == "document.ready"
    assert delivery["body"]["data"]["session_id"] == session["id"]
    assert await bridge.calls("/end$", "POST") == 1
    assert await held_bytes(bridge) == 0


async def test_a_vendor_that_comes_back_in_the_middle_gets_all_audio_in_its_stream(bridge: Bridge) -> None:
    await bridge.start_worker()
    session = await bridge.create(upload="stream")
    frames = frames_of(300)
    async with opened(session) as stream:
        for frame in frames[:50]:
            await stream.send(frame)
        await arrived(bridge, session, 50)
        await bridge.fault("/voice/v1/stream/", **AWAY)
        await cut(bridge, session)
        for frame in frames[50:290]:
            await stream.send(frame)
        await until(lambda: held_bytes(bridge))
        await clear_faults(bridge)

        async def is_whole() -> bool:
            return bool((await bridge.seen(session["id"]))["stream"]["bytes"] == 290 * 3200)

        await until(is_whole)
        for frame in frames[290:]:
            await stream.send(frame)
    assert (await bridge.end(session["id"])).status_code == 202
    await document_arrives_once(bridge, session)
    seen = (await bridge.seen(session["id"]))["stream"]
    assert seen["sha256"] == hashlib.sha256(b"".join(frames)).hexdigest()
    assert await kinds(bridge, session) == [
        "stream.opened",
        "stream.interrupted",
        "stream.resumed",
        "stream.closed",
    ]


async def test_a_stream_that_stays_cut_gives_one_document_of_all_its_audio(bridge: Bridge) -> None:
    await bridge.start_worker()
    session = await bridge.create(upload="stream")
    frames = frames_of(250)
    async with opened(session) as stream:
        for frame in frames[:100]:
            await stream.send(frame)
        await arrived(bridge, session, 100)
        await bridge.fault("/voice/v1/stream/", **AWAY)
        await cut(bridge, session)
        for frame in frames[100:]:
            await stream.send(frame)
        ended = await bridge.end(session["id"])
        assert (ended.status_code, ended.json()["status"]) == (202, "processing")
        with contextlib.suppress(ConnectionClosedOK):
            await stream.recv()
        assert (stream.close_code, stream.close_reason) == (1000, "the session was ended")
    await document_arrives_once(bridge, session)
    seen = await second_session(bridge, session)
    assert [file["name"] for file in seen["files"]] == ["0.wav", "1.wav"]
    whole = b"".join(frames)
    sizes = [file["bytes"] - 44 for file in seen["files"]]
    assert sum(sizes) == len(whole)
    parts = [whole[: sizes[0]], whole[sizes[0] :]]
    hashes = [hashlib.sha256(wav_of(part, 16_000)).hexdigest() for part in parts]
    assert [file["sha256"] for file in seen["files"]] == hashes
    assert await kinds(bridge, session) == ["stream.opened", "stream.interrupted", "stream.closed"]
    assert not (await bridge.session(session["id"])).get("warnings")


@pytest.mark.parametrize("is_back_in_time", [True, False])
async def test_a_stream_begins_while_the_vendor_is_away(bridge: Bridge, is_back_in_time: bool) -> None:
    await bridge.start_worker()
    await bridge.fault("/voice/v1/", **AWAY)
    created = await bridge.api.post(
        "/v1/sessions", json={"upload": "stream"}, headers={"idempotency-key": "one"}
    )
    assert created.status_code == 201, created.text
    session = created.json()
    assert session["stream_url"].startswith("ws://")
    frames = frames_of(30)
    async with opened(session) as stream:
        for frame in frames[:20]:
            await stream.send(frame)
        if is_back_in_time:
            await clear_faults(bridge)

            async def has_all() -> bool:
                answer = await bridge.vendor.get(f"/_control/sessions/{session['id']}")
                return bool(answer.status_code == 200 and answer.json()["stream"]["bytes"] == 20 * 3200)

            await until(has_all, seconds=30)
        for frame in frames[20:]:
            await stream.send(frame)
    assert (await bridge.end(session["id"])).status_code == 202
    await clear_faults(bridge)
    await document_arrives_once(bridge, session)
    whole = b"".join(frames)
    if is_back_in_time:
        seen = (await bridge.seen(session["id"]))["stream"]
        assert seen["sha256"] == hashlib.sha256(whole).hexdigest()
    else:
        (file,) = (await second_session(bridge, session))["files"]
        assert file["sha256"] == hashlib.sha256(wav_of(whole, 16_000)).hexdigest()


async def test_a_client_with_envelopes_gets_its_stop_confirmed_although_the_vendor_is_away(
    bridge: Bridge,
) -> None:
    await bridge.start_worker()
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send('{"event": "start", "start": {"mediaFormat": {"sampleRate": 8000}}}')
        await arrived(bridge, session, 1)
        await bridge.fault("/voice/v1/stream/", **AWAY)
        await cut(bridge, session)
        payload = base64.b64encode(FRAME).decode()
        for _ in range(5):
            await stream.send(json.dumps({"event": "media", "media": {"payload": payload}}))
        await stream.send('{"event": "stop"}')
        await stream.wait_closed()
        assert (stream.close_code, stream.close_reason) == (1000, "")
    assert (await bridge.end(session["id"])).status_code == 202
    await document_arrives_once(bridge, session)
    (file,) = (await second_session(bridge, session))["files"]
    assert file["sha256"] == hashlib.sha256(wav_of(FRAME * 5, 8_000)).hexdigest()


async def test_a_client_that_comes_again_goes_on_behind_the_held_audio(bridge: Bridge) -> None:
    session = await bridge.create(upload="stream")
    frames = frames_of(30)
    await bridge.fault("/voice/v1/stream/", **AWAY)
    async with opened(session) as stream:
        for frame in frames[:20]:
            await stream.send(frame)
    await until(lambda: held_bytes(bridge))
    await clear_faults(bridge)
    async with opened(session) as stream:
        for frame in frames[20:]:
            await stream.send(frame)
    await bridge.start_worker()
    assert (await bridge.end(session["id"])).status_code == 202
    await document_arrives_once(bridge, session)
    seen = (await bridge.seen(session["id"]))["stream"]
    assert seen["sha256"] == hashlib.sha256(b"".join(frames)).hexdigest()


async def test_a_part_that_is_held_goes_to_the_stream_that_has_the_rest(bridge: Bridge) -> None:
    session = await bridge.create(upload="stream")
    frames = frames_of(40)
    async with opened(session) as stream:
        for frame in frames[:20]:
            await stream.send(frame)
    async with opened(session) as stream:
        for frame in frames[20:30]:
            await stream.send(frame)

        async def has_come() -> bool:
            return bool((await bridge.seen(session["id"]))["stream"]["bytes"] == 30 * 3200)

        await until(has_come)
        await bridge.fault("/voice/v1/stream/", **AWAY)
        await cut(bridge, session)
        for frame in frames[30:]:
            await stream.send(frame)
    assert (await bridge.end(session["id"])).status_code == 202
    assert (await bridge.session(session["id"]))["status"] == "processing"
    await clear_faults(bridge)
    await bridge.start_worker()
    await document_arrives_once(bridge, session)
    seen = (await bridge.seen(session["id"]))["stream"]
    assert seen["sha256"] == hashlib.sha256(b"".join(frames)).hexdigest()
    assert await bridge.calls("/voice/v1/sessions$", "POST") == 1


async def test_a_part_whose_stream_is_refused_goes_to_a_second_session_and_that_is_told(
    bridge: Bridge,
) -> None:
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
    async with opened(session) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 2)
        await bridge.fault("/voice/v1/stream/", status=403, times=None)
        await cut(bridge, session)
        await stream.send(bytes(3200))
    await bridge.start_worker()
    assert (await bridge.end(session["id"])).status_code == 202
    await document_arrives_once(bridge, session)
    (file,) = (await second_session(bridge, session))["files"]
    assert file["bytes"] >= 3244
    (warning,) = (await bridge.session(session["id"]))["warnings"]
    assert warning["code"] == "audio_incomplete"


async def test_an_erasure_reaches_the_held_audio_of_a_stream(bridge: Bridge) -> None:
    session = await bridge.create(upload="stream")
    await bridge.fault("/voice/v1/stream/", **AWAY)
    async with opened(session) as stream:
        await stream.send(FRAME)
    await until(lambda: held_bytes(bridge))
    stored = await bridge.database.fetch("SELECT data_sealed FROM audio_blocks")
    assert not any(FRAME[:64] in row["data_sealed"] for row in stored)
    assert (await bridge.api.delete(f"/v1/sessions/{session['id']}")).status_code == 202
    assert await held_bytes(bridge) == 0
    assert await bridge.database.fetchval("SELECT count(*) FROM stream_interruptions") == 0


async def test_cuts_in_the_middle_of_speech_lose_nothing_and_repeat_an_instant_at_most(
    bridge: Bridge,
) -> None:
    session = await bridge.create(upload="stream")
    frames = frames_of(300)
    async with opened(session) as stream:

        async def talk() -> None:
            for frame in frames:
                await stream.send(frame)
                await asyncio.sleep(0.005)

        talking = asyncio.create_task(talk())
        for part in range(1, 5):

            async def has_part(part: int = part) -> bool:
                seen = (await bridge.seen(session["id"]))["stream"]
                return bool(seen["bytes"] >= part * 50 * 3200 and seen["open_connections"] == 1)

            await until(has_part)
            await cut(bridge, session)
        await talking

        async def has_all() -> bool:
            return bool((await bridge.seen(session["id"]))["stream"]["bytes"] >= len(frames) * 3200)

        await until(has_all)
    repeated = (await bridge.seen(session["id"]))["stream"]["bytes"] - len(frames) * 3200
    assert (
        0 <= repeated < 40 * 3200
    )  # four cuts; a frame came every 5 ms, which is 20 times as fast as speech
