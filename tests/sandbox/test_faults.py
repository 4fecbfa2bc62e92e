from __future__ import annotations

import asyncio
import json

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

from tests.sandbox.conftest import CREATE, TOKEN
from tests.support.sounds import wav

PATH = "/voice/v1/sessions"
NAMED = {**CREATE, "session_id": "ses_0123456789abcdef"}


async def test_answers_can_be_replaced_a_number_of_times(bench):
    headers = {"Retry-After": "3"}
    await bench.fault(method="POST", path_regex="/sessions$", skip=1, times=2, status=503, headers=headers)
    answers = [await bench.client.post(PATH, json=CREATE) for _ in range(4)]
    assert [each.status_code for each in answers] == [201, 503, 503, 201]
    assert answers[1].headers["retry-after"] == "3"
    calls = (await bench.client.get("/_control/calls", params={"method": "POST"})).json()
    assert [each["fault"] for each in calls] == [None, "respond/before", "respond/before", None]


async def test_a_fault_can_last_and_be_ended(bench):
    await bench.fault(path_regex="sessions", times=None, status=429, body={"detail": "slow down"})
    answers = [await bench.client.post(PATH, json=CREATE) for _ in range(3)]
    assert {each.status_code for each in answers} == {429}
    assert answers[0].json() == {"detail": "slow down"}
    await bench.client.delete("/_control/faults")
    assert (await bench.client.post(PATH, json=CREATE)).status_code == 201


async def test_a_reset_before_has_no_effect(bench):
    await bench.fault(path_regex="/sessions$", mode="reset")
    with pytest.raises(httpx2.ReadError):
        await bench.client.post(PATH, json=NAMED)
    assert (await bench.get(NAMED["session_id"])).status_code == 404


async def test_a_reset_after_took_effect(bench):
    await bench.fault(path_regex="/sessions$", mode="reset", when="after")
    with pytest.raises(httpx2.ReadError):
        await bench.client.post(PATH, json=NAMED)
    await bench.settle(long_poll_seconds=0)
    assert (await bench.get(NAMED["session_id"])).status_code == 202


async def test_a_503_after_took_effect(bench):
    await bench.fault(path_regex="/sessions$", when="after")
    assert (await bench.client.post(PATH, json=NAMED)).status_code == 503
    assert (await bench.client.post(PATH, json=NAMED)).status_code == 409


async def test_the_wire_sees_a_reset(bench):
    await bench.fault(path_regex="/sessions$", mode="reset")
    host, port = bench.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /voice/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_a_reset_cuts_an_upload(bench):
    session_id = (await bench.create())["session_id"]
    await bench.fault(path_regex="/audio/", mode="reset", read_body=False)
    with pytest.raises((httpx2.ReadError, httpx2.WriteError)):
        await bench.upload(session_id, "audio_0.wav", bytes(8_000_000))
    assert (await bench.witness(session_id))["files"] == []


@pytest.mark.parametrize("read_body", [True, False])
async def test_a_hang_lasts_until_the_client_gives_up_or_it_is_ended(bench, read_body):
    await bench.fault(path_regex="/sessions$", mode="hang", read_body=read_body)
    with pytest.raises(httpx2.ReadTimeout):
        await bench.client.post(PATH, json=CREATE, timeout=0.2)
    await bench.fault(path_regex="/sessions$", mode="hang", read_body=read_body)
    hanging = asyncio.ensure_future(bench.client.post(PATH, json=CREATE))
    while await bench.count(path_regex="/sessions$") < 2:
        pass
    await bench.client.delete("/_control/faults")
    with pytest.raises(httpx2.ReadError):
        await hanging


async def test_half_an_answer_is_no_json(bench):
    await bench.fault(path_regex="/sessions$", mode="half_json")
    answer = await bench.client.post(PATH, json=CREATE)
    assert answer.status_code == 201
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_a_drip_arrives_whole_but_late(bench):
    await bench.fault(path_regex="/sessions$", mode="drip", drip_seconds=0.001)
    answer = await bench.client.post(PATH, json=CREATE)
    assert (answer.status_code, answer.json()["status"]) == (201, "created")


async def test_a_delay_alone_lets_the_call_through(bench):
    await bench.fault(path_regex="/sessions$", delay_seconds=0.2)
    with pytest.raises(httpx2.ReadTimeout):
        await bench.client.post(PATH, json=CREATE, timeout=0.1)
    assert (await bench.client.post(PATH, json=CREATE)).status_code == 201


async def test_handshakes_fail_too(bench):
    url = (await bench.create(upload_type="stream"))["upload_url"]
    await bench.fault(method="WS", path_regex="/stream/", status=503)
    with pytest.raises(InvalidStatus):
        await connect(url, proxy=None)
    await bench.fault(method="WS", path_regex="/stream/", mode="reset")
    with pytest.raises(InvalidMessage):
        await connect(url, proxy=None)
    async with connect(url, proxy=None):
        assert await bench.count(method="WS") == 3


async def test_the_journal_names_calls_and_keeps_no_secret(bench):
    session_id = (await bench.create())["session_id"]
    await bench.upload(session_id, "audio_0.wav", wav(0.1))
    calls = (await bench.client.get("/_control/calls", params={"session_id": session_id})).json()
    assert [(each["method"], each["path"].rpartition("/")[2], each["status"]) for each in calls] == [
        ("POST", "sessions", 201),
        ("POST", "audio_0.wav", 200),
    ]
    assert calls[1]["body_bytes"] == len(wav(0.1))
    assert calls[1]["headers"]["content-type"] == "audio/wav"
    assert calls[1]["authorization"] is True
    assert TOKEN["Authorization"].split()[1] not in str(calls)
    assert await bench.count(method="POST", path_regex="audio_0") == 1


@pytest.mark.parametrize("body", [{}, {"path_regex": "("}, {"path_regex": "x", "mode": "explode"}])
async def test_bad_faults_are_refused(bench, body):
    assert (await bench.client.post("/_control/faults", json=body)).status_code == 400


async def test_bad_settings_change_nothing(bench):
    answer = await bench.client.patch("/_control/settings", json={"outcome": "failed", "nope": 1})
    assert answer.status_code == 400
    assert (await bench.client.get("/_control/settings")).json()["outcome"] == "completed"
