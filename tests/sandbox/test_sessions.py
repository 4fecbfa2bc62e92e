from __future__ import annotations

import asyncio
import hashlib

import pytest

from tests.support.sounds import wav, webm

SEED_BODY = {
    "session_mode": "dictation",
    "templates": ["eka_emr_template"],
    "model": "pro",
    "language_hint": ["en"],
    "transcript_language": "en",
    "upload_type": "chunked",
    "communication_protocol": "http",
    "additional_data": {"source": "mobile_app"},
    "patient_details": {"oid": "PAT-12345", "name": "John Doe"},
}


async def test_the_transcript_states_what_was_received(bench):
    session_id = (await bench.create(**SEED_BODY))["session_id"]
    chunks = [wav(seconds) for seconds in (1.0, 2.5, 0.5)]
    for number in (2, 0, 1):
        assert (await bench.upload(session_id, f"a_{number}.wav", chunks[number])).status_code == 200
    assert (await bench.end(session_id, 3)).json()["audio_files"] == ["0.wav", "1.wav", "2.wav"]
    answer = await bench.get(session_id)
    assert answer.status_code == 200
    sha256 = hashlib.sha256(b"".join(chunks)).hexdigest()
    body = answer.json()
    lines = body["transcript"].splitlines()
    assert lines[0] == f"Received 3 audio files, 4.00 seconds, sha256 {sha256}."
    first = hashlib.sha256(chunks[0]).hexdigest()
    assert lines[1] == f"0.wav: {len(chunks[0])} bytes, 1.00 seconds, sha256 {first}"
    document = body["templates"][0]["eka_emr_template"]
    size = sum(map(len, chunks))
    assert document["data"]["audio"] == {"files": 3, "seconds": 4.0, "bytes": size, "sha256": sha256}
    assert body["patient_details"] == SEED_BODY["patient_details"]
    assert body["model_used"] == "pro"


async def test_webm_slices_are_measured_together(bench):
    session_id = (await bench.create())["session_id"]
    data = webm(1_200)
    for number, start in enumerate(range(0, len(data), 10_000)):
        piece = data[start : start + 10_000]
        await bench.upload(session_id, f"audio_{number}.webm", piece, "audio/webm;codecs=opus")
    await bench.end(session_id)
    transcript = (await bench.get(session_id)).json()["transcript"]
    assert f"24.00 seconds, sha256 {hashlib.sha256(data).hexdigest()}." in transcript


async def test_a_repeated_name_keeps_the_first_transcript(bench):
    session_id = (await bench.create())["session_id"]
    await bench.upload(session_id, "audio_0.wav", wav(1))
    await bench.upload(session_id, "rec_0.wav", wav(2))
    await bench.upload(session_id, "audio_0.ogg", b"ogg", "audio/ogg")
    await bench.end(session_id)
    witness = await bench.witness(session_id)
    names = [(each["name"], each["uploads"], each["bytes"]) for each in witness["files"]]
    assert names == [("0.ogg", 1, 3), ("0.wav", 2, len(wav(1)))]
    assert witness["files"][1]["latest"]["bytes"] == len(wav(2))


async def test_big_bodies_pass_unless_a_limit_is_set(bench):
    session_id = (await bench.create())["session_id"]
    big = bytes(12_000_000)
    assert (await bench.upload(session_id, "audio_0.wav", big)).status_code == 200
    await bench.settle(chunk_max_bytes=1_000_000)
    refused = await bench.upload(session_id, "audio_1.wav", big)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "chunk_too_large"
    assert len((await bench.witness(session_id))["files"]) == 1


async def test_end_has_no_guard_and_processes_again(bench):
    session_id = (await bench.create(templates=["eka_emr_template"]))["session_id"]
    ids = []
    for _ in range(2):
        assert (await bench.end(session_id, 7)).status_code == 202
        body = (await bench.get(session_id)).json()
        ids.append(body["templates"][0]["eka_emr_template"]["document_id"])
    assert ids[0] != ids[1]
    witness = await bench.witness(session_id)
    assert (witness["end_calls"], witness["end_counts"], witness["runs"]) == (2, [7, 7], 2)


async def test_nothing_is_uploaded_after_the_end(bench):
    session_id = (await bench.create())["session_id"]
    await bench.settle(outcome="never")
    await bench.end(session_id)
    refused = await bench.upload(session_id, "audio_0.wav", wav(1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "session_ended")
    await bench.client.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    refused = await bench.upload(session_id, "audio_0.wav", wav(1))
    assert refused.json()["error"]["code"] == "session_completed"


async def test_a_second_create_damages_the_first_session(bench):
    await bench.settle(damage_seconds=0.05)
    session_id = (await bench.create(session_id="ses_0123456789abcdef"))["session_id"]
    second = await bench.client.post("/voice/v1/sessions", json={**SEED_BODY, "session_id": session_id})
    assert (second.status_code, second.json()["error"]["code"]) == (409, "txn_already_initialized")
    await bench.end(session_id)
    assert (await bench.get(session_id)).status_code == 206
    witness = await bench.witness(session_id)
    assert witness["damaged"]
    assert witness["creates"] == 2


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        ("completed", 200, "completed"),
        ("partial", 206, "partial"),
        ("failed", 200, "failed"),
        ("expired", 410, "expired"),
    ],
)
async def test_each_ending_has_its_status(bench, outcome, status, word):
    session_id = (await bench.create(templates=["eka_emr_template"]))["session_id"]
    await bench.settle(outcomes={session_id: outcome})
    await bench.end(session_id)
    answer = await bench.get(session_id)
    assert (answer.status_code, answer.json()["status"]) == (status, word)
    if outcome == "failed":
        assert {"templates", "transcript", "completed_at"}.isdisjoint(answer.json())
    if outcome == "partial":
        assert answer.json()["processing_errors"][0]["template_id"] == "eka_emr_template"


async def test_failing_templates_make_a_session_partial(bench):
    session_id = (await bench.create(templates=["fail_me", "eka_emr_template"]))["session_id"]
    await bench.end(session_id)
    answer = await bench.get(session_id)
    assert answer.status_code == 206
    failed, good = answer.json()["templates"]
    assert failed["fail_me"]["status"] == "failed"
    assert failed["fail_me"]["data"] is None
    assert good["eka_emr_template"]["status"] == "success"


async def test_a_session_never_ended_expires(bench):
    await bench.settle(session_seconds=0, long_poll_seconds=0)
    session_id = (await bench.create())["session_id"]
    answer = await bench.get(session_id)
    assert (answer.status_code, answer.json()["templates"]) == (410, {})
    await bench.settle(answer_410=False)
    assert (await bench.get(session_id)).status_code == 202


async def test_filters_choose_documents(bench):
    await bench.settle(transcript_with_filter=False)
    session_id = (await bench.create(templates=["eka_emr_template", "clinical_notes_template"]))["session_id"]
    await bench.end(session_id)
    full = (await bench.get(session_id)).json()
    assert len(full["templates"]) == 2
    one = (await bench.get(session_id, template_id="clinical_notes_template")).json()
    assert [list(each) for each in one["templates"]] == [["clinical_notes_template"]]
    assert one["transcript"] == ""
    text = (await bench.get(session_id, template_id="transcript")).json()
    assert (text["templates"], text["transcript"]) == ([], full["transcript"])
    assert (await bench.get(session_id, template_id="nope")).status_code == 404
    calls = (await bench.witness(session_id))["get_calls"]
    assert calls == {"": 1, "clinical_notes_template": 1, "transcript": 1, "nope": 1}


async def test_another_template_of_a_finished_session(bench):
    session_id = (await bench.create())["session_id"]
    path = f"/voice/v1/sessions/{session_id}/process/template/discharge_letter"
    assert (await bench.client.post(path)).status_code == 409
    await bench.end(session_id)
    await bench.get(session_id)
    document_id = (await bench.client.post(path)).json()["document_id"]
    answer = await bench.get(session_id, document_id=document_id)
    assert answer.status_code == 200
    assert answer.json()["templates"][0]["discharge_letter"]["document_id"] == document_id


async def test_a_poller_is_woken_by_the_ending(bench):
    await bench.settle(outcome="never", long_poll_seconds=10)
    session_id = (await bench.create())["session_id"]
    await bench.end(session_id)
    polling = asyncio.ensure_future(bench.get(session_id))
    await bench.client.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "failed"})
    assert (await polling).json()["status"] == "failed"


async def test_patching_additional_data_breaks_the_session(bench):
    session_id = (await bench.create())["session_id"]
    path = f"/voice/v1/sessions/{session_id}"
    assert (await bench.client.patch(path, json={"additional_data": {}})).status_code == 200
    assert (await bench.get(session_id)).status_code == 500


async def test_cancelling_stops_processing(bench):
    await bench.settle(outcome="never")
    session_id = (await bench.create())["session_id"]
    await bench.end(session_id)
    cancel = {"user_status": "cancelled", "processing_status": "cancelled"}
    await bench.client.patch(f"/voice/v1/sessions/{session_id}", json=cancel)
    assert (await bench.get(session_id)).json()["status"] == "cancelled"


async def test_v2_callers_get_a_form_to_upload_with(bench):
    body = {"upload_type": "chunked", "language_hint": ["en"]}
    for query, headers in (({"version": "v2"}, {}), ({}, {"flavour": "scribe"})):
        answer = await bench.client.post("/voice/v1/sessions", json=body, params=query, headers=headers)
        assert answer.json()["upload_url"]["txn_id"] == answer.json()["session_id"]


async def test_discovery_names_the_host_that_was_asked(bench):
    body = (await bench.client.get("/voice/v1/.well-known/medscribealliance")).json()
    assert body["endpoints"]["base_url"] == f"{bench.url}/voice/v1"
    assert body["capabilities"]["upload_methods"] == ["chunked", "single", "stream"]


async def test_an_upload_cut_short_leaves_nothing(bench):
    session_id = (await bench.create())["session_id"]
    host, port = bench.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = f"/voice/v1/sessions/{session_id}/audio/audio_0.wav"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bench.client.headers['authorization']}\r\n"
    writer.write(f"{head}Content-Type: audio/wav\r\nContent-Length: 1000\r\n\r\nRIFF".encode())
    await writer.drain()
    query = {"path_regex": "/audio/"}
    while not any(
        call["body_bytes"] for call in (await bench.client.get("/_control/calls", params=query)).json()
    ):
        pass
    writer.close()
    await writer.wait_closed()
    while not (call := (await bench.client.get("/_control/calls", params=query)).json()[0])["done"]:
        pass
    assert (call["status"], call["client_left"], call["body_bytes"]) == (None, True, 4)
    assert (await bench.witness(session_id))["files"] == []
