from __future__ import annotations

import base64
import hashlib
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

PCM = bytes(i % 253 for i in range(48_000))
FRAMES = [PCM[i : i + 3_200] for i in range(0, len(PCM), 3_200)]


async def open_session(bench):
    made = await bench.create(upload_type="stream", communication_protocol="websocket")
    assert made["upload_url"].startswith(bench.url.replace("http", "ws") + "/voice/v1/stream/sessions/str_")
    return made["session_id"], made["upload_url"]


async def read_transcript(bench, session_id):
    assert (await bench.end(session_id, 0)).status_code == 202
    return (await bench.get(session_id)).json()["transcript"].splitlines()[0]


async def test_binary_pcm_is_heard_byte_for_byte(bench):
    session_id, url = await open_session(bench)
    async with connect(url, compression=None, proxy=None) as socket:
        for frame in FRAMES:
            await socket.send(frame)
    while (await bench.witness(session_id))["stream"]["open_connections"]:
        pass
    witness = (await bench.witness(session_id))["stream"]
    assert (witness["mode"], witness["frames"], witness["bytes"]) == ("binary", len(FRAMES), len(PCM))
    sha256 = hashlib.sha256(PCM).hexdigest()
    assert witness["sha256"] == sha256
    assert (
        await read_transcript(bench, session_id) == f"Received 1 audio file, 1.50 seconds, sha256 {sha256}."
    )


async def test_the_json_envelope_is_heard_and_stop_closes_with_1000(bench):
    session_id, url = await open_session(bench)
    async with connect(url, compression=None, proxy=None) as socket:
        media = {"encoding": "audio/x-l16", "sampleRate": 8000}
        await socket.send(json.dumps({"event": "start", "start": {"mediaFormat": media}}))
        for frame in FRAMES:
            payload = base64.b64encode(frame).decode()
            await socket.send(json.dumps({"event": "media", "media": {"payload": payload}}))
        await socket.send(json.dumps({"event": "stop"}))
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1000
    witness = (await bench.witness(session_id))["stream"]
    assert (witness["mode"], witness["stops"], witness["seconds"]) == ("json", 1, 3.0)
    sha256 = hashlib.sha256(PCM).hexdigest()
    assert (
        await read_transcript(bench, session_id) == f"Received 1 audio file, 3.00 seconds, sha256 {sha256}."
    )


async def test_audio_not_flushed_before_the_end_is_lost(bench):
    session_id, url = await open_session(bench)
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.send(FRAMES[0])
        while not (await bench.witness(session_id))["stream"]["bytes"]:
            pass
        assert "Received 0 audio files" in await read_transcript(bench, session_id)
    while (await bench.witness(session_id))["stream"]["open_connections"]:
        pass
    assert (await bench.witness(session_id))["stream"]["late_bytes"] == len(FRAMES[0])


async def test_the_vendor_can_speak_and_hang_up(bench):
    session_id, url = await open_session(bench)
    async with connect(url, compression=None, proxy=None) as socket:
        path = f"/_control/sessions/{session_id}/stream"
        assert (await bench.client.post(path, json={"text": "hello"})).json() == {"sockets": 1}
        assert await socket.recv() == "hello"
        await bench.client.post(path, json={"close": 1011})
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1011


async def test_a_frame_that_is_no_envelope_is_refused(bench):
    _, url = await open_session(bench)
    async with connect(url, compression=None, proxy=None) as socket:
        await socket.send("not json")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1003


async def test_an_unknown_stream_is_refused(bench):
    with pytest.raises(InvalidStatus):
        await connect(f"{bench.url.replace('http', 'ws')}/voice/v1/stream/sessions/str_x/audio", proxy=None)
