"""PATCH and further documents through the protocol."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.support.api_calls import expire
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import browser_client, envelope
from tests.support.medscribe_sessions import begin, end, finished, get

DONE = {"status": "success", "message": "Session updated successfully"}


async def patch(bridge: Bridge, session: str, **fields: Any) -> httpx2.Response:
    return await bridge.api.patch(f"/voice/v1/sessions/{session}", json=fields)


@pytest.mark.parametrize("name", ["patient_details", "session_details"])
async def test_patient_templates_languages_mode_and_model(house: Bridge, name: str) -> None:
    session = await begin(house, upload_type="single", patient_details={"oid": "P-1"})
    answer = await patch(
        house,
        session,
        **{name: {"oid": "P-2", "name": "Jane"}},
        templates=["clinical_notes_template"],
        language_hint=["hi"],
        session_mode="consultation",
        model="lite",
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"session_id": session, **DONE}
    seen = await house.seen(session)
    assert seen["patient"] == {"oid": "P-2", "name": "Jane"}
    assert (seen["templates"], seen["languages"]) == (["clinical_notes_template"], ["hi"])
    assert (seen["mode"], seen["model"]) == ("consultation", "lite")
    found = (await get(house, session)).json()
    assert found["patient_details"] == {"oid": "P-2", "name": "Jane"}
    protocol = found["additional_data"]["_protocol"]
    assert protocol["requested_templates"] == ["clinical_notes_template"]
    assert protocol["upload_type"] == "single"


async def test_additional_data_is_taken_and_dropped(house: Bridge) -> None:
    session = await begin(house, additional_data={"visit": "V1"})
    answer = await patch(house, session, additional_data={"visit": "V2"})
    assert (answer.status_code, answer.json()["status"]) == (200, "success")
    assert (await get(house, session)).json()["additional_data"]["visit"] == "V1"
    assert await house.calls(f"/sessions/{session}$", "PATCH") == 0  # it would break the session there
    await patch(house, session, additional_data={"visit": "V3"}, patient_details={"oid": "P-9"})
    assert (await house.seen(session))["additional_data"]["visit"] == "V1"
    envelope(await patch(house, "ses_does_not_exist_000", additional_data={}), 404, "session_not_found")
    await end(house, session)
    assert (await patch(house, session, additional_data={"visit": "V4"})).status_code == 200


@pytest.mark.parametrize("fields", [{"session_mode": "dictation"}, {"model": "pro"}, {"templates": ["a"]}])
async def test_after_the_end_it_is_too_late(house: Bridge, fields: dict[str, Any]) -> None:
    session = await begin(house)
    await end(house, session)
    envelope(await patch(house, session, **fields), 409, "session_already_committed")


@pytest.mark.parametrize("fields", [{}, {"additional_data": {"visit": "V2"}}, {"session_mode": "dictation"}])
async def test_an_expired_session_takes_no_change_not_even_of_nothing(
    house: Bridge, fields: dict[str, Any]
) -> None:
    past = await begin(house)
    await expire(house, past)
    envelope(await patch(house, past, **fields), 410, "session_expired")
    expired = await begin(house)
    await house.database.execute("UPDATE sessions SET status = 'expired' WHERE id = $1", expired)
    envelope(await patch(house, expired, **fields), 410, "session_expired")


@pytest.mark.parametrize("status", ["processing", "partial", "completed", "failed", "cancelled"])
async def test_after_the_end_a_change_of_nothing_is_refused_as_any_other_is(
    house: Bridge, status: str
) -> None:
    session = await begin(house)
    await house.database.execute("UPDATE sessions SET status = $2 WHERE id = $1", session, status)
    envelope(await patch(house, session), 409, "session_already_committed")


async def test_a_browser_cancels(house: Bridge) -> None:
    browser = await browser_client(house)
    session = await begin(house)
    body = {"user_status": "cancelled", "processing_status": "cancelled"}
    answer = await browser.call("PATCH", f"/voice/v1/sessions/{session}", 200, json=body)
    assert answer.json() == {"session_id": session, **DONE}
    status, found = await browser.get(session)
    assert (status, found["status"]) == (200, "cancelled")
    assert (await house.seen(session))["status"] == "cancelled"
    envelope(
        await house.api.post(f"/voice/v1/sessions/{session}/audio/a_1.wav", content=b"RIFF"),
        400,
        "session_ended",
    )
    assert (await patch(house, session, processing_status="cancelled")).status_code == 200


@pytest.mark.parametrize("fields", [{"user_status": "commit"}, {"processing_status": "success"}])
async def test_nothing_else_is_decided_by_a_status(house: Bridge, fields: dict[str, Any]) -> None:
    session = await begin(house)
    envelope(await patch(house, session, **fields), 400, "invalid_request")
    assert (await get(house, session)).json()["status"] == "initialized"


async def test_what_has_its_ending_is_not_cancelled(house: Bridge) -> None:
    session = await begin(house)
    await house.database.execute(
        "UPDATE sessions SET status = 'completed', settled_at = now() WHERE id = $1", session
    )
    envelope(await patch(house, session, user_status="cancelled"), 409, "session_already_committed")


async def test_a_further_document_is_asked_for_and_comes(bridge: Bridge) -> None:
    session = await finished(bridge, "completed")
    await bridge.add_destination()
    url = f"/voice/v1/sessions/{session}/process/template/clinical_notes_template"
    answer = await bridge.api.post(url)
    assert answer.status_code == 202
    asked = answer.json()
    assert set(asked) == {"session_id", "template_id", "status", "message", "document_id", "poll_url"}
    assert asked["poll_url"] == f"/voice/v1/sessions/{session}?document_id={asked['document_id']}"
    assert (await bridge.api.get(asked["poll_url"])).status_code == 202
    assert (asked["template_id"], asked["status"]) == ("clinical_notes_template", "processing")
    assert (await get(bridge, session, document_id=asked["document_id"])).status_code == 202
    assert (await get(bridge, session, template_id="clinical_notes_template")).status_code == 202
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["data"]["document"]["template_id"] == "clinical_notes_template"
    found = await get(bridge, session, document_id=asked["document_id"])
    assert found.status_code == 200
    ((template, document),) = found.json()["templates"][0].items()
    assert (template, document["status"]) == ("clinical_notes_template", "success")
    assert document["document_id"] == asked["document_id"]


async def test_a_further_document_of_a_session_that_runs(house: Bridge) -> None:
    session = await begin(house)
    url = f"/voice/v1/sessions/{session}/process/template/clinical_notes_template"
    envelope(await house.api.post(url), 409, "session_not_finished")


async def test_a_further_document_that_the_vendor_does_not_make(bridge: Bridge) -> None:
    session = await finished(bridge, "completed")
    url = f"/voice/v1/sessions/{session}/process/template/no_such_template"
    envelope(await bridge.api.post(url), 400, "bad_request")


async def test_without_a_template_the_session_s_first_is_made_anew(bridge: Bridge) -> None:
    session = await finished(bridge, "completed")
    answer = await bridge.api.post(f"/voice/v1/sessions/{session}/process/template")
    assert answer.status_code == 202
    assert answer.json()["template_id"] == "eka_emr_template"
    assert await bridge.calls("/process/template/eka_emr_template$", "POST") == 1
    assert (await get(bridge, session, document_id=answer.json()["document_id"])).status_code == 202


async def test_without_a_template_a_session_that_asked_for_none_must_be_told_one(bridge: Bridge) -> None:
    session = await finished(bridge, "completed", templates=[])
    error = envelope(
        await bridge.api.post(f"/voice/v1/sessions/{session}/process/template"), 400, "invalid_request"
    )
    assert "template_id" in error["message"]
    envelope(
        await bridge.api.post("/voice/v1/sessions/ses_nope_nope_nope/process/template"),
        404,
        "session_not_found",
    )
