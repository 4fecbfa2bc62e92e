"""Live streams: frames both ways, and every way in which a stream begins and ends."""

import asyncio
import base64
import contextlib
import hashlib
import json
from time import monotonic
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from service.app import create_app
from service.bootstrap.container import open_stores
from service.domain.ids import new_session_id
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import DatabaseGate
from tests.support.bridge import open_bridge
from tests.support.live_streams import FRAME, arrived, opened, refusal
from tests.support.rig import until


async def closing(stream: ClientConnection, seconds: float = 15) -> tuple[int, str]:
    """Wait until we are told goodbye; return the code and the reason."""
    async with asyncio.timeout(seconds):
        await stream.wait_closed()
    assert stream.close_code not in {None, 1006}, "the connection broke without a close frame"
    return stream.close_code, stream.close_reason or ""


async def from_vendor(bridge: Any, session: dict[str, Any], **frame: Any) -> None:
    answer = await bridge.vendor.post(f"/_control/sessions/{session['id']}/stream", json=frame)
    assert answer.json()["sockets"] == 1, answer.text


async def freed(bridge: Any, session: dict[str, Any]) -> None:
    """Wait until nobody holds the stream."""

    async def is_free() -> bool:
        return await bridge.database.fetchval(
            "SELECT lease IS NULL FROM streams WHERE session_id = $1", session["id"]
        )

    await until(is_free)


async def connections(bridge: Any, session: dict[str, Any]) -> list[dict[str, Any]]:
    """How the connections of a stream ended, by its timeline."""
    answer = await bridge.api.get(f"/v1/sessions/{session['id']}/timeline")
    return [entry["data"] for entry in answer.json()["items"] if entry["type"] == "stream.closed"]


async def test_a_stream_session_hands_out_a_capability_and_no_audio_url(bridge):
    session = await bridge.create(upload="stream")
    assert session["stream_url"].startswith(bridge.url.replace("http", "ws") + "/")
    assert "audio_url" not in session
    assert (await bridge.session(session["id"]))["stream_url"] == session["stream_url"]
    assert "stream_url" not in await bridge.create()


async def test_binary_frames_reach_the_vendor_byte_for_byte(bridge):
    session = await bridge.create(upload="stream")
    sent = hashlib.sha256()
    async with opened(session) as stream:
        for number in range(50):
            frame = bytes([number]) + FRAME[1:]
            sent.update(frame)
            await stream.send(frame)
        await arrived(bridge, session, 50)
        assert (await bridge.reach(session["id"], "recording"))["chunks_received"] == 0
    answer = await bridge.end(session["id"])
    assert answer.status_code == 202, answer.text
    seen = await bridge.seen(session["id"])
    assert seen["stream"]["sha256"] == sent.hexdigest()
    assert seen["stream"]["late_bytes"] == 0
    assert (seen["end_calls"], seen["end_counts"]) == (1, [0])
    assert await connections(bridge, session) == [
        {"cause": "client_closed", "code": 1000, "frames": 50, "bytes": 50 * 3200}
    ]


async def test_envelopes_pass_both_ways_as_they_are_and_a_stop_waits_for_the_flush(bridge):
    await bridge.vendor_settings(stream_flush_seconds=1.0)
    session = await bridge.create(upload="stream")
    payload = base64.b64encode(FRAME).decode()
    async with opened(session) as stream:
        await stream.send('{ "event": "start",  "start": {"mediaFormat": {"sampleRate": 8000}} }')
        await stream.send(json.dumps({"event": "media", "media": {"payload": payload}}))
        await stream.send('{"event": "mark", "mark": {"name": "unknown to anybody"}}')
        seen = await arrived(bridge, session, 3)
        assert (seen["mode"], seen["sample_rate"], seen["bytes"]) == ("json", 8000, 3200)
        await from_vendor(bridge, session, text='{"partial":  "हाँ, बुखार"}')
        assert await stream.recv() == '{"partial":  "हाँ, बुखार"}'
        await from_vendor(bridge, session, base64=base64.b64encode(b"\x00\xff\x01").decode())
        assert await stream.recv() == b"\x00\xff\x01"
        started = monotonic()
        await stream.send('{"event": "stop"}')
        assert await closing(stream) == (1000, "")
    assert monotonic() - started >= 1.0
    assert (await bridge.seen(session["id"]))["stream"]["stops"] == 1
    await freed(bridge, session)
    assert [end["cause"] for end in await connections(bridge, session)] == ["stopped"]
    assert (await bridge.end(session["id"])).status_code == 202


async def test_a_vendor_that_never_confirms_a_stop_is_waited_for_ten_seconds(bridge):
    await bridge.vendor_settings(stream_flush_seconds=300)
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send('{"event": "start"}')
        started = monotonic()
        await stream.send('{"event": "stop"}')
        code, reason = await closing(stream, 25)
    assert 9.5 <= monotonic() - started <= 14
    assert code == 1014
    assert "up to frame 2" in reason
    await freed(bridge, session)
    assert [end["cause"] for end in await connections(bridge, session)] == ["unconfirmed"]


async def test_an_odd_number_of_bytes_passes_since_a_sample_may_end_in_the_next_frame(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        for piece in (FRAME[:1], FRAME[1:1000], FRAME[1000:]):
            await stream.send(piece)
        seen = await arrived(bridge, session, 3)
    assert seen["sha256"] == hashlib.sha256(FRAME).hexdigest()


DEEP = '{"event": "x", "a": ' + "[" * 200_000 + "]" * 200_000 + "}"


@pytest.mark.parametrize(
    "text", ["hello", "", "[]", "{}", '{"event": 7}', '{"event": "media"', '"stop"', DEEP]
)
async def test_text_that_is_no_envelope_ends_the_stream_and_never_reaches_the_vendor(bridge, text):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await stream.send(text)
        code, reason = await closing(stream)
    assert code == 1007
    assert "envelope" in reason
    await freed(bridge, session)
    seen = (await bridge.seen(session["id"]))["stream"]
    assert (seen["frames"], seen["open_connections"]) == (1, 0)


async def test_what_came_before_a_frame_that_is_too_long_is_kept(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        for _ in range(10):
            await stream.send(FRAME)
        await stream.send(bytes(1_048_577))
        code, _ = await closing(stream)
    assert code == 1009
    await freed(bridge, session)
    assert (await bridge.seen(session["id"]))["stream"]["frames"] == 10
    assert await connections(bridge, session) == [
        {"cause": "bad_frame", "code": 1009, "frames": 10, "bytes": 32_000}
    ]


async def test_a_vendor_that_closes_in_the_middle_is_told_as_it_is_with_how_far_it_got(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        for _ in range(3):
            await stream.send(FRAME)
        await arrived(bridge, session, 3)
        await from_vendor(bridge, session, close=1000)
        assert await closing(stream) == (1000, "closed by EkaScribe after frame 3")


async def test_a_frame_of_one_mebibyte_passes_and_a_longer_one_ends_the_stream(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(bytes(1_048_576))
        await arrived(bridge, session, 1)
        await stream.send(bytes(1_048_577))
        code, _ = await closing(stream)
    assert code == 1009
    await freed(bridge, session)
    seen = (await bridge.seen(session["id"]))["stream"]
    assert (seen["frames"], seen["open_connections"]) == (1, 0)


async def test_the_vendors_close_code_and_reason_reach_the_client(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 1)
        await from_vendor(bridge, session, close=4321, reason="no minutes left")
        assert await closing(stream) == (4321, "no minutes left; closed by EkaScribe after frame 1")
    await freed(bridge, session)
    assert [(end["cause"], end["code"]) for end in await connections(bridge, session)] == [
        ("vendor_closed", 4321)
    ]


async def test_the_clients_close_code_reaches_the_vendor(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await stream.close(4567, "enough")

    async def vendor_knows() -> bool:
        return (await bridge.seen(session["id"]))["stream"]["close_codes"] == [4567]

    await until(vendor_knows)


async def entries(bridge: Any, session: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    answer = await bridge.api.get(f"/v1/sessions/{session['id']}/timeline")
    return [entry["data"] for entry in answer.json()["items"] if entry["type"] == kind]


@pytest.mark.parametrize("end", [{"drop": True}, {"close": 1012}, {"close": 1011}])
async def test_a_vendor_that_breaks_gets_all_audio_once_and_the_client_sees_nothing_of_it(bridge, end):
    session = await bridge.create(upload="stream")
    sent = hashlib.sha256()

    async def have_come(frames: int) -> None:
        async def all_are_there() -> bool:
            seen = (await bridge.seen(session["id"]))["stream"]
            return bool(seen["bytes"] == frames * 3200 and seen["open_connections"] == 1)

        await until(all_are_there)

    async with opened(session) as stream:
        for number in range(20):
            frame = bytes([number]) + FRAME[1:]
            sent.update(frame)
            await stream.send(frame)
            if number in {7, 13}:
                await have_come(number + 1)
                await from_vendor(bridge, session, **end)
        await have_come(20)
        await from_vendor(bridge, session, text="heard")
        assert await stream.recv() == "heard"
    assert (await bridge.end(session["id"])).status_code == 202
    seen = (await bridge.seen(session["id"]))["stream"]
    assert seen["sha256"] == sent.hexdigest()
    assert (seen["connections"], seen["late_bytes"]) == (3, 0)
    assert [(one["cause"], one["frames"]) for one in await connections(bridge, session)] == [
        ("client_closed", 20)
    ]
    assert len(await entries(bridge, session, "stream.interrupted")) == 2
    assert all(each["seconds"] >= 0 for each in await entries(bridge, session, "stream.resumed"))
    assert await bridge.database.fetchval("SELECT count(*) FROM chunks") == 0


async def test_a_client_that_vanishes_leaves_a_stream_that_can_be_reopened_at_once(bridge):
    session = await bridge.create(upload="stream")
    stream = await opened(session)
    await stream.send(FRAME)
    await arrived(bridge, session, 1)
    stream.transport.abort()
    async with opened(session) as again:
        await again.send(FRAME)
        await arrived(bridge, session, 2)
    assert (await bridge.seen(session["id"]))["stream"]["late_bytes"] == 0


async def test_ending_the_session_flushes_and_closes_an_open_stream_first(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        for _ in range(20):
            await stream.send(FRAME)
        answer, told = await asyncio.gather(bridge.end(session["id"]), closing(stream))
    assert answer.status_code == 202, answer.text
    assert told == (1000, "the session was ended")
    seen = await bridge.seen(session["id"])
    assert (seen["stream"]["frames"], seen["stream"]["late_bytes"]) == (20, 0)
    assert seen["end_calls"] == 1


async def test_a_stream_without_audio_cannot_be_ended(bridge):
    session = await bridge.create(upload="stream")
    assert (await bridge.end(session["id"])).json()["code"] == "audio_missing"
    async with opened(session):
        answer = await bridge.end(session["id"])
        assert (answer.status_code, answer.json()["code"]) == (409, "audio_missing")
    await freed(bridge, session)
    answer = await bridge.end(session["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "audio_missing")
    async with opened(session) as stream:
        await stream.send(FRAME)
    assert (await bridge.end(session["id"])).status_code == 202


async def test_a_second_client_is_refused_and_the_first_is_not_disturbed(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        problem = await refusal(session["stream_url"])
        assert (problem["status"], problem["code"]) == (409, "stream_busy")
        await stream.send(FRAME)
        seen = await arrived(bridge, session, 2)
    assert seen["connections"] == 1


async def test_a_client_that_has_gone_silent_gives_way_to_another(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as silent:
        await silent.send(FRAME)
        await arrived(bridge, session, 1)

        async def was_heard() -> bool:
            return await bridge.database.fetchval(
                "SELECT bytes > 0 FROM stream_connections WHERE session_id = $1", session["id"]
            )

        await until(was_heard)
        await bridge.database.execute("UPDATE streams SET heard_at = now() - interval '6 seconds'")
        async with opened(session) as second:
            code, reason = await closing(silent)
            await second.send(FRAME)
            await arrived(bridge, session, 2)
    assert code == 4409
    assert "took this stream over" in reason


async def test_a_process_that_died_with_a_stream_keeps_others_away_only_until_its_lease_ends(bridge):
    session = await bridge.create(upload="stream")
    await bridge.database.execute(
        "INSERT INTO streams (session_id, lease, lease_until) "
        "VALUES ($1, gen_random_uuid(), now() + interval '8 seconds')",
        session["id"],
    )
    assert (await refusal(session["stream_url"]))["code"] == "stream_busy"
    await bridge.database.execute("UPDATE streams SET lease_until = now()")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 1)


async def test_a_stream_whose_lease_was_lost_ends(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await bridge.database.execute("UPDATE streams SET lease = gen_random_uuid()")
        code, _ = await closing(stream)
    assert code == 4409


async def test_a_session_that_expires_ends_its_stream(bridge):
    await bridge.start_worker()
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await bridge.database.execute("UPDATE sessions SET expires_at = now()")
        code, reason = await closing(stream)
    assert (code, reason) == (4410, "the session is expired")
    assert (await refusal(session["stream_url"]))["code"] == "session_expired"


@pytest.mark.parametrize("is_ending", [False, True])
async def test_an_erasure_by_another_process_cuts_the_stream_and_no_byte_follows(bridge, is_ending):
    session = await bridge.create(upload="stream")
    await bridge.fault("/sessions/", method="PATCH", mode="hang", times=None)
    if is_ending:  # its last frames are waited for, and a vendor that flushes them for long
        await bridge.vendor_settings(stream_flush_seconds=8.0)

    async def talk(stream: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await stream.send(FRAME)
                await asyncio.sleep(0.005)

    async def is_shutting_down() -> bool:
        return await bridge.database.fetchval(
            "SELECT is_yielding FROM streams WHERE session_id = $1", session["id"]
        )

    async def erased() -> bool:
        return await bridge.database.fetchval(
            "SELECT erased_at IS NOT NULL FROM sessions WHERE id = $1", session["id"]
        )

    async with (
        serve_app(create_app(bridge.settings), **CONNECTION_OPTIONS) as url,
        httpx2.AsyncClient(base_url=url, headers=bridge.api.headers, trust_env=False, timeout=20) as other,
        opened(session) as stream,
    ):
        talking = asyncio.create_task(talk(stream))
        await arrived(bridge, session, 20)
        if is_ending:
            await bridge.database.execute(
                "UPDATE sessions SET status = 'processing', ended_at = now() WHERE id = $1", session["id"]
            )
            await until(is_shutting_down)
        erasing = asyncio.create_task(other.delete(f"/v1/sessions/{session['id']}"))
        await until(erased)
        began = monotonic()
        assert await closing(stream) == (4410, "the session was erased")
        assert monotonic() - began < 0.35  # 0.2 on a machine that does nothing else
        seen = (await bridge.seen(session["id"]))["stream"]
        await bridge.vendor.delete("/_control/faults")
        assert (await erasing).status_code == 202
        await talking
    assert (await bridge.seen(session["id"]))["stream"]["bytes"] == seen["bytes"]
    assert (await refusal(session["stream_url"]))["code"] == "session_erased"


async def test_the_address_of_an_ended_session_is_refused(bridge):
    session = await bridge.create(upload="stream")
    async with opened(session) as stream:
        await stream.send(FRAME)
    assert (await bridge.end(session["id"])).status_code == 202
    problem = await refusal(session["stream_url"])
    assert (problem["status"], problem["code"]) == (409, "session_ended")


async def test_without_the_right_capability_there_is_nothing(bridge):
    session = await bridge.create(upload="stream")
    other = await bridge.create(upload="stream")
    base, _, capability = session["stream_url"].rpartition("/")
    _, _, of_other = other["stream_url"].rpartition("/")
    unknown = base.replace(session["id"], new_session_id())
    for url in (
        f"{base}/{of_other}",
        f"{base}/{capability[:-1]}",
        f"{base}/{capability}x",
        f"{base}/%00",
        f"{base}/%ff%fe",
        f"{unknown}/{capability}",
    ):
        problem = await refusal(url)
        assert (problem["status"], problem["code"]) == (404, "not_found"), url


async def test_a_session_of_chunks_takes_no_stream_and_a_stream_takes_no_chunks(bridge):
    session = await bridge.create()
    async with open_stores(bridge.settings) as stores:
        capability = await stores.streams.capability(session["id"])
    url = f"{bridge.url.replace('http', 'ws')}/v1/stream/{session['id']}/{capability}"
    assert (await refusal(url))["code"] == "wrong_upload_type"
    streaming = await bridge.create(upload="stream")
    assert (await bridge.put(streaming["id"], 0)).json()["code"] == "wrong_upload_type"


async def test_a_plain_request_to_a_streams_address_is_told_so(bridge):
    session = await bridge.create(upload="stream")
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(session["stream_url"].replace("ws", "http", 1))
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


async def test_a_vendor_that_refuses_the_stream_is_told_and_it_can_be_tried_again(bridge):
    session = await bridge.create(upload="stream")
    await bridge.fault("/voice/v1/stream/", times=1, status=403)
    problem = await refusal(session["stream_url"])
    assert (problem["status"], problem["code"]) == (502, "vendor_error")
    async with opened(session) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 1)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"mode": "reset"}, {"mode": "hang"}])
async def test_a_stream_opens_although_the_vendor_does_not_open_it_yet(bridge, fault):
    session = await bridge.create(upload="stream")
    await bridge.fault("/voice/v1/stream/", times=1, **fault)
    async with opened(session, open_timeout=15) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 1)
    assert (await bridge.end(session["id"])).status_code == 202
    assert (await bridge.seen(session["id"]))["stream"]["bytes"] == len(FRAME)


async def test_a_slow_vendor_slows_the_client_and_nothing_piles_up_in_between(bridge):
    await bridge.vendor_settings(stream_frame_delay_seconds=0.02)
    session = await bridge.create(upload="stream")
    frame = bytes(262_144)
    sent = 0
    async with opened(session, write_limit=65_536) as stream:

        async def flood() -> None:
            nonlocal sent
            while True:
                await stream.send(frame)
                sent += 1

        flooding = asyncio.create_task(flood())
        # Unread frames fill the buffers of the sockets, which the system enlarges at the beginning, and then
        # grow no more.
        gaps = []
        for goal in (80, 180):
            taken = await arrived(bridge, session, goal)
            gaps.append(sent - taken["frames"])
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        await bridge.vendor_settings(stream_frame_delay_seconds=0)
    assert (gaps[1] - gaps[0]) * len(frame) < 2_000_000
    await freed(bridge, session)


async def test_audio_goes_on_while_the_database_is_away(database_url, redis_url):
    gate = DatabaseGate(database_url)
    await gate.open()
    async with open_bridge(gate.url, redis_url) as bridge:
        session = await bridge.create(upload="stream")
        async with opened(session) as stream:
            await stream.send(FRAME)
            await arrived(bridge, session, 1)
            await gate.shut()
            for _ in range(10):
                await stream.send(FRAME)
            await arrived(bridge, session, 11)
            await gate.open()
            await stream.send(FRAME)
            await arrived(bridge, session, 12)

        async def is_ended() -> bool:
            return (await bridge.end(session["id"])).status_code == 202

        await until(is_ended)
        assert (await bridge.seen(session["id"]))["stream"]["late_bytes"] == 0
    await gate.shut()
