"""Create through the protocol: the documented answer (docs/vendor.md#create), defaults, ids, mistakes."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import rows_of
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import SECONDS, envelope, no_nulls

CHUNKED = {"upload_type": "chunked", "communication_protocol": "http"}


async def create(house: Bridge, path: str = "", **fields: Any) -> httpx2.Response:
    return await house.api.post(f"/voice/v1/sessions{path}", json=CHUNKED | fields)


async def test_the_seed_s_request_gets_the_seed_s_answer(house: Bridge) -> None:
    patient = {"oid": "PAT-12345", "name": "John Doe", "age": 41}
    answer = await create(
        house,
        session_mode="dictation",
        templates=["eka_emr_template"],
        model="pro",
        language_hint=["en"],
        transcript_language="en",
        additional_data={"source": "mobile_app", "app_version": "1.0.0"},
        patient_details=patient,
        nobody_knows_this=1,
    )
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["status"] == "created"
    assert SECONDS.fullmatch(found["created_at"])
    assert SECONDS.fullmatch(found["expires_at"])
    assert found["upload_url"] == f"{house.url}/voice/v1/sessions/{found['session_id']}/audio"
    assert found["patient_details"] == found["session_details"] == patient
    assert no_nulls(found)
    seen = await house.seen(found["session_id"])
    assert seen["patient"] == patient
    assert seen["additional_data"].items() >= {"source": "mobile_app", "app_version": "1.0.0"}.items()
    same = await house.session(found["session_id"])
    assert same["patient"] == {"id": "PAT-12345", "name": "John Doe", "age": 41}
    assert same["metadata"] == {"source": "mobile_app", "app_version": "1.0.0"}


async def test_the_tenant_s_defaults_fill_the_rest(house: Bridge) -> None:
    session = await house.session((await create(house)).json()["session_id"])
    assert session["templates"] == ["eka_emr_template"]
    assert session["languages"] == ["en"]
    assert session["model"] == "pro"


async def test_an_empty_list_of_templates_asks_for_none(house: Bridge) -> None:
    session = await house.session((await create(house, templates=[])).json()["session_id"])
    assert session["templates"] == []


@pytest.mark.parametrize("details", [{"oid": None, "name": ""}, {"oid": "", "name": None}, {}, None])
async def test_a_patient_of_blanks_is_none(house: Bridge, details: dict[str, Any] | None) -> None:
    answer = await create(house, patient_details=details)
    assert answer.status_code == 201
    assert "patient_details" not in answer.json()


async def test_session_details_are_the_patient_s_under_another_name(house: Bridge) -> None:
    found = (await create(house, session_details={"oid": 17, "name": "Jane"})).json()
    assert found["session_details"] == {"oid": "17", "name": "Jane"}


async def test_a_client_chooses_an_id_once(house: Bridge) -> None:
    chosen = f"ses_{secrets.token_hex(10)}-A"
    assert (await create(house, session_id=chosen)).json()["session_id"] == chosen
    taken = await create(house, session_id=chosen, templates=["clinical_notes_template"])
    envelope(taken, 409, "txn_already_initialized")
    seen = await house.seen(chosen)
    assert seen["creates"] == 1  # docs/vendor.md#create-twice
    assert seen["templates"] == ["eka_emr_template"]
    assert (await house.session(chosen))["status"] == "created"


@pytest.mark.parametrize("was_refused", [False, True])
async def test_of_many_at_once_one_gets_the_id(house: Bridge, was_refused: bool) -> None:
    chosen = f"ses_{secrets.token_hex(10)}"
    if was_refused:
        await create(house, session_id=chosen, templates=["no_such_template"])
    answers = await asyncio.gather(*(create(house, session_id=chosen) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]
    assert (await house.seen(chosen))["creates"] == 1


async def test_an_id_of_another_tenant_is_taken_and_nothing_is_told_of_it(house: Bridge) -> None:
    chosen = f"ses_{secrets.token_hex(10)}"
    other = await house.tenant("other", templates=["eka_emr_template"])
    body = CHUNKED | {"session_id": chosen}
    assert (await other.post("/voice/v1/sessions", json=body)).status_code == 201
    error = envelope(await create(house, session_id=chosen), 409, "txn_already_initialized")
    assert set(error["details"]) == {"request_id"}
    envelope(await house.api.get(f"/voice/v1/sessions/{chosen}"), 404, "session_not_found")


async def test_an_id_is_free_again_when_the_vendor_refused_the_session(house: Bridge) -> None:
    chosen = f"ses_{secrets.token_hex(10)}"
    refused = await create(house, session_id=chosen, templates=["no_such_template"])
    error = envelope(refused, 400, "bad_request")
    assert error["details"]["vendor_status"] == 400
    assert (await create(house, session_id=chosen)).status_code == 201
    (row,) = await rows_of(house)
    assert (row["status"], row["error_code"], row["templates"]) == ("created", None, ["eka_emr_template"])
    assert (await create(house, session_id=chosen)).status_code == 409


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"upload_type": "carrier"}, "upload_type"),
        ({"upload_type": None}, "upload_type"),
        ({"communication_protocol": None}, "communication_protocol"),
        ({"communication_protocol": "pigeon"}, "communication_protocol"),
        ({"templates": ["a", "b", "c"]}, "templates"),
        ({"templates": ["a", "a"]}, "templates"),
        ({"session_id": "too_short"}, "session_id"),
        ({"session_id": "x" * 33}, "session_id"),
        ({"session_id": "ses_with/a/slash_in"}, "session_id"),
        ({"model": "max"}, "model"),
        ({"session_mode": "song"}, "session_mode"),
        ({"language_hint": ["english!"]}, "language_hint"),
        ({"patient_details": {"oid": ["P"]}}, "patient_details.oid"),
        ({"additional_data": {"much": "x" * 5000}}, "additional_data"),
    ],
)
async def test_mistakes_are_400_and_named_as_the_protocol_names_them(
    house: Bridge, fields: dict[str, Any], named: str
) -> None:
    error = envelope(await create(house, **fields), 400, "invalid_request")
    assert f"'body -> {named}" in error["message"]
    assert await rows_of(house) == []


async def test_what_is_no_json_is_400(house: Bridge) -> None:
    answer = await house.api.post("/voice/v1/sessions", content=b"{")
    envelope(answer, 400, "invalid_request")


async def test_single_is_one_file_of_any_name(house: Bridge) -> None:
    found = (await create(house, upload_type="single")).json()
    url = f"/voice/v1/sessions/{found['session_id']}"
    answer = await house.api.post(f"{url}/audio/consultation.wav", content=b"RIFF")
    assert answer.status_code == 200
    assert (await house.seen(found["session_id"]))["files"][0]["uploads"] == 1
    listed = (await house.api.get(url)).json()
    assert listed["audio_files"] == ["0.wav"]
    assert listed["additional_data"]["_protocol"]["upload_type"] == "single"


@pytest.mark.parametrize(("path", "headers"), [("?version=v2", {}), ("", {"flavour": "web"})])
async def test_clients_that_post_forms_get_what_they_need(
    house: Bridge, path: str, headers: dict[str, str]
) -> None:
    answer = await house.api.post(
        f"/voice/v1/sessions{path}", json={"upload_type": "chunked"}, headers=headers
    )
    assert answer.status_code == 201
    found = answer.json()
    upload = found["upload_url"]
    assert set(upload) == {"uploadData", "folderPath", "txn_id"}
    assert upload["uploadData"]["url"].startswith(f"{house.url}/voice/v1/uploads/")
    assert "${filename}" in upload["uploadData"]["fields"]["key"]
    assert found["storage_provider"] == "aws"


async def test_a_stream_s_upload_url_is_its_capability(house: Bridge) -> None:
    body = {"upload_type": "stream", "communication_protocol": "websocket"}
    found = (await house.api.post("/voice/v1/sessions?version=v2", json=body)).json()
    session = await house.session(found["session_id"])
    assert found["upload_url"] == session["stream_url"]
    assert found["upload_url"].startswith("ws://")


async def test_a_session_begins_while_the_vendor_is_away(house: Bridge) -> None:
    await house.fault("/sessions$", method="POST", status=503, headers={"retry-after": "7"})
    answer = await create(house)
    assert answer.status_code == 201, answer.text
    session = answer.json()["session_id"]
    url = f"/voice/v1/sessions/{session}/audio/audio_0.wav"
    assert (await house.api.post(url, content=b"RIFF")).status_code == 200
