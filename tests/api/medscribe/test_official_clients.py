"""Whole dictations by clients that demand what the official ones demand."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from websockets.asyncio.client import connect

from tests.support.bridge import Bridge, random_bytes
from tests.support.medscribe_clients import browser_client, form, python_client


async def test_the_python_client_s_chunked_flow(bridge: Bridge) -> None:
    await bridge.start_worker()
    await bridge.add_destination()
    client = await python_client(bridge)
    discovered = await client.discover()
    assert discovered["endpoints"]["base_url"] == f"{bridge.url}/voice/v1"
    session = await client.create(patient_details={"oid": "PAT-9", "name": "Jane"}, language_hint=["en"])
    chunks = [random_bytes(40_000) for _ in range(3)]
    for index, chunk in enumerate(chunks):
        await client.upload(session["session_id"], index, chunk)
    ended = await client.end(session["session_id"], len(chunks))
    assert ended["audio_files"] == ["0.wav", "1.wav", "2.wav"]
    status, found = await client.results(session["session_id"])
    assert (status, found["status"]) == (200, "completed")
    assert found["patient_details"] == {"oid": "PAT-9", "name": "Jane"}
    assert found["templates"][0]["eka_emr_template"]["data"]
    assert client.logins == 1
    stored = (await bridge.seen(session["session_id"]))["files"]
    assert [each["sha256"] for each in stored] == [hashlib.sha256(chunk).hexdigest() for chunk in chunks]
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["data"]["session_id"] == session["session_id"]


async def test_the_python_client_s_streaming_flow(bridge: Bridge) -> None:
    await bridge.start_worker()
    client = await python_client(bridge)
    session = await client.create(upload_type="stream", communication_protocol="websocket")
    sound = random_bytes(32_000)
    async with connect(session["upload_url"], max_size=None, proxy=None) as stream:
        for start in range(0, len(sound), 3_200):
            await stream.send(sound[start : start + 3_200])
        await stream.send('{"event": "stop"}')
        async with asyncio.timeout(10):  # as long as the client waits for the close
            await stream.wait_closed()
    assert (await client.end(session["session_id"], 0))["audio_files"] == []
    status, found = await client.results(session["session_id"])
    assert (status, found["status"]) == (200, "completed")
    assert found["upload_url"] == session["upload_url"]
    seen = (await bridge.seen(session["session_id"]))["stream"]
    assert seen["sha256"] == hashlib.sha256(sound).hexdigest()


async def test_the_python_client_s_expired_session(house: Bridge) -> None:
    client = await python_client(house)
    session = await client.create()
    await house.database.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = $1", session["session_id"]
    )
    status, found = await client.results(session["session_id"])
    assert (status, found["status"], found["templates"]) == (410, "expired", [])


async def test_the_browser_s_flow_with_forms(bridge: Bridge) -> None:
    await bridge.start_worker()
    browser = await browser_client(bridge)
    await browser.call("GET", "/voice/v1/.well-known/medscribealliance", 200)
    session = await browser.create(patient_details={"name": "Jane", "age": 41, "mobile": 9_876_543_210})
    pieces = [b"ID3" + random_bytes(200_000) for _ in range(3)]
    for number, piece in enumerate(pieces, 1):
        await browser.post_form(session["upload_url"], f"{number}.mp3", piece)
    ended = await browser.end(session["session_id"], len(pieces))
    assert ended["audio_files"] == ["1.mp3", "2.mp3", "3.mp3"]
    await bridge.reach(session["session_id"], "completed")
    status, found = await browser.get(session["session_id"])
    assert (status, found["status"]) == (200, "completed")
    assert found["patient_details"] == {"name": "Jane", "age": 41, "mobile": 9_876_543_210}
    stored = (await bridge.seen(session["session_id"]))["files"]
    assert [each["original_name"] for each in stored] == ["audio_1.mp3", "audio_2.mp3", "audio_3.mp3"]
    assert [each["sha256"] for each in stored] == [hashlib.sha256(piece).hexdigest() for piece in pieces]
    assert "POST /voice/v1/sessions?version=v2" in browser.preflights


async def test_the_browser_s_flow_with_mislabelled_forms(house: Bridge) -> None:
    browser = await browser_client(house)
    body = {"templates": [], "upload_type": "chunked", "communication_protocol": "http"}
    headers = {"content-type": "application/json", "authorization": f"Bearer {browser.token}"}
    session = (await browser.fetch("POST", "/voice/v1/sessions", headers, 201, json=body)).json()
    assert isinstance(session["upload_url"], str)
    piece = b"ID3" + random_bytes(50_000)
    content, _ = form({}, "1.mp3", piece, "audio/mp3")
    path = f"{session['upload_url'].removeprefix(house.url)}/1.mp3"
    labelled = headers | {"content-type": "audio/webm;codecs=opus"}
    await browser.fetch("POST", path, labelled, 200, content=content)
    (stored,) = (await house.seen(session["session_id"]))["files"]
    assert stored["sha256"] == hashlib.sha256(piece).hexdigest()
    await browser.end(session["session_id"], 1)


@pytest.mark.parametrize("count", [0, 2])
async def test_the_browser_s_end_of_a_session_with_failed_uploads_is_refused(
    house: Bridge, count: int
) -> None:
    browser = await browser_client(house)
    session = await browser.create()
    await browser.post_form(session["upload_url"], "1.mp3", b"ID3")
    body = {"audio_files_sent": count + 1, "audio_files_uploaded": count + 1}
    expected = 202 if count == 0 else 409
    await browser.call("POST", f"/voice/v1/sessions/{session['session_id']}/end", expected, json=body)
