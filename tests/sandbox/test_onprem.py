"""What the on-prem characters do beyond single answers: webhooks, logins, single recordings, states."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.sandbox.conftest import Bench
from tests.support.sounds import wav
from tests.support.stand_in_outcomes import dictate, only, until
from tests.support.stand_in_webhooks import signature_fits

SECRET = "s3cret"
LOGIN, REFRESH = "/connect-auth/v1/login", "/connect-auth/v1/refresh"
USER = {"username": "sandbox", "password": "sandbox-password"}


@pytest.fixture
async def july(bench: Bench) -> Bench:
    await bench.settle(character="onprem-2026-07", long_poll_seconds=0)
    return bench


@pytest.fixture
async def august(bench: Bench) -> Bench:
    await bench.settle(character="onprem-2026-08", long_poll_seconds=0)
    return bench


async def listen(bench: Bench) -> None:
    endpoint = {"url": f"{bench.emr_url}/hooks/vendor", "secret": SECRET}
    await bench.settle(webhook_endpoints=[endpoint])


async def test_july_tells_of_documents_and_of_the_end_and_nothing_of_failures(july: Bench):
    await listen(july)
    session_id = await dictate(july, "a_note", "fail_b")
    entries = await july.received(6, name="vendor")
    events = sorted(each["body"]["event_id"] for each in entries)
    assert events == [
        "scribe.session.document.generated",
        "scribe.session.end",
        "scribe.session.init",
        "scribe.session.transcript.completed",
        "scribe.session.update",
        "v2rx.completed",
    ]
    for each in entries:
        assert each["body"]["payload"]["transaction_id"] == session_id
        assert signature_fits(each["headers"]["eka-webhook-signature"], SECRET, each["raw"].encode())
    generated = next(each for each in entries if "document" in each["body"]["event_id"])
    assert generated["body"]["payload"]["data"]["template_id"] == "a_note"


async def test_august_sends_no_webhook(august: Bench):
    await listen(august)
    session_id = await dictate(august, "a_note")
    await until(august, session_id, 200)
    answer = await august.client.get(f"{august.emr_url}/_control/received", params={"count": 0})
    assert answer.json() == []
    assert (await august.client.get("/_control/webhooks")).json() == []


async def test_neither_has_the_webhooks_that_it_advertises(july: Bench):
    for character in ("onprem-2026-07", "onprem-2026-08"):
        await july.settle(character=character)
        for path in ("/voice/v1/webhooks", "/notification/v1/connect/webhook/subscriptions"):
            assert (await july.client.get(path)).status_code == 404


async def refresh(bench: Bench, token: str) -> Any:
    return await bench.client.post(REFRESH, json={"refresh_token": token})


async def test_a_spent_refresh_token_comes_back_for_a_minute(august: Bench):
    tokens = (await august.client.post(LOGIN, json=USER)).json()
    assert (tokens["expires_in"], tokens["user"]["username"]) == (900, "sandbox")
    answers = await asyncio.gather(*(refresh(august, tokens["refresh_token"]) for _ in range(2)))
    found = sorted((each.json()["refresh_token"] == tokens["refresh_token"]) for each in answers)
    assert found == [False, True]
    for each in answers:
        bearer = {"Authorization": f"Bearer {each.json()['access_token']}"}
        session = await august.client.get("/voice/v1/sessions/ses_nope_nope_nope", headers=bearer)
        assert session.status_code == 404
    await august.client.post("/_control/tokens/expire", json={"refresh_seconds": 61})
    assert (await refresh(august, tokens["refresh_token"])).status_code == 401


async def test_a_process_call_in_august_is_refused_with_any_token(august: Bench):
    session_id = await dictate(august, "a_note")
    tokens = (await august.client.post(LOGIN, json=USER)).json()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    path = f"/voice/v1/sessions/{session_id}/process/template/b_note"
    answer = await august.client.post(path, headers=bearer)
    assert (answer.status_code, answer.json()) == (401, {"detail": "JWT missing uuid claim"})


async def test_a_repeated_single_upload_is_transcribed_twice(july: Bench):
    session_id = (await july.create(upload_type="single"))["session_id"]
    for _ in range(2):
        assert (await july.upload(session_id, "recording.wav", wav(1))).status_code == 200
    before = (await july.get(session_id)).json()["audio_files"]
    assert [each.rpartition("/")[2] for each in before] == ["2.m4a"]
    await july.end(session_id)
    assert "Received 2 audio files, 2.00 seconds" in (await until(july, session_id, 200))["transcript"]
    other = (await july.create(upload_type="single"))["session_id"]
    noise = await july.upload(other, "x.webm", b"\x1a\x45\xdf\xa3 no audio", "audio/webm;codecs=opus")
    assert noise.status_code == 500


async def test_a_second_document_of_a_template_is_listed_first(july: Bench):
    session_id = await dictate(july, "a_note")
    first = only(await until(july, session_id, 200))["document_id"]
    path = f"/voice/v1/sessions/{session_id}/process/template/a_note"
    second = (await july.client.post(path)).json()["document_id"]
    await until(july, session_id, 200, document_id=second)
    whole = await until(july, session_id, 200)
    assert [each["a_note"]["document_id"] for each in whole["templates"]] == [second, first]
    filtered = await until(july, session_id, 200, template_id="a_note")
    assert only(filtered)["document_id"] == first


async def test_states_can_be_forced(august: Bench):
    session_id = await dictate(august, "a_note", "b_note")
    await until(august, session_id, 200)
    path = f"/_control/sessions/{session_id}"
    document = {"template_id": "b_note", "status": "some_status", "content": None}
    assert (await august.client.post(f"{path}/documents", json=document)).status_code == 200
    assert (await august.get(session_id)).status_code == 206
    assert (await august.get(session_id, template_id="b_note")).status_code == 202
    missing = await august.client.post(f"{path}/documents", json={"template_id": "c_note"})
    assert missing.status_code == 404
    await august.client.patch(path, json={"expired": True})
    gone = await august.get(session_id)
    assert (gone.status_code, gone.json()["templates"]) == (410, {})


@pytest.mark.parametrize("character", ["hosted", "onprem-2026-07", "onprem-2026-08"])
async def test_the_patient_comes_back_under_the_characters_own_name(bench: Bench, character: str):
    await bench.settle(character=character, long_poll_seconds=0)
    patients = {"patient_details": {"oid": "P"}, "session_details": {"oid": "S"}}
    made = await bench.create(**patients)
    name = "session_details" if character == "onprem-2026-08" else "patient_details"
    assert made[name] == patients[name]
    other = ({*patients} - {name}).pop()
    assert other not in made
    answer = await bench.client.patch(f"/voice/v1/sessions/{made['session_id']}", json={other: {"oid": "X"}})
    if character == "hosted":
        assert answer.status_code == 200
    else:
        assert "Extra inputs are not permitted" in answer.json()["error"]["message"]
