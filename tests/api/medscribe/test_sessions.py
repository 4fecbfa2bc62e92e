"""Get Session in every state: status code, shape, filters; from our own store and never with a null."""

from tests.support.api_calls import expire
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import SECONDS, envelope, python_client
from tests.support.medscribe_sessions import begin, end, finished, get

ALWAYS = {
    "session_id",
    "status",
    "created_at",
    "expires_at",
    "upload_url",
    "audio_files_received",
    "audio_files",
    "additional_data",
}


RESULT = ALWAYS | {"completed_at", "model_used", "language_detected", "transcript", "templates"}


async def test_before_the_end_it_is_initialized(house: Bridge) -> None:
    session = await begin(house, additional_data={"visit": "V1"}, patient_details={"oid": "P", "name": "J"})
    answer = await get(house, session)
    assert answer.status_code == 202
    found = answer.json()
    assert found["status"] == "initialized"
    assert set(found) == ALWAYS | {"transcript", "patient_details", "session_details"}
    assert SECONDS.fullmatch(found["created_at"])
    assert SECONDS.fullmatch(found["expires_at"])
    assert found["upload_url"] == f"{house.url}/voice/v1/sessions/{session}/audio"
    assert found["audio_files"] == ["0.wav"]
    assert found["transcript"] == ""
    assert found["patient_details"] == {"oid": "P", "name": "J"}
    assert found["additional_data"] == {
        "visit": "V1",
        "_protocol": {
            "version": "0.1",
            "upload_type": "chunked",
            "communication_protocol": "http",
            "requested_templates": ["eka_emr_template"],
        },
    }


async def test_after_the_end_it_is_processing_with_and_without_a_filter(house: Bridge) -> None:
    session = await begin(house)
    await end(house, session)
    for params in ({}, {"template_id": "eka_emr_template"}, {"template_id": "x"}, {"document_id": "x"}):
        answer = await get(house, session, **params)
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
        assert set(answer.json()) == ALWAYS | {"transcript"}


async def test_a_session_of_v1_can_be_read_too(house: Bridge) -> None:
    session = await house.create(metadata={"a": 1}, upload="stream")
    found = (await get(house, session["id"])).json()
    assert found["upload_url"] == session["stream_url"]
    assert found["additional_data"]["a"] == 1
    assert found["additional_data"]["_protocol"]["upload_type"] == "stream"
    assert found["additional_data"]["_protocol"]["communication_protocol"] == "websocket"


async def test_completed(bridge: Bridge) -> None:
    templates = ["eka_emr_template", "clinical_notes_template"]
    session = await finished(bridge, "completed", templates=templates)
    calls = await bridge.calls(f"/sessions/{session}", "GET")
    answer = await get(bridge, session)
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == RESULT
    assert found["status"] == "completed"
    assert SECONDS.fullmatch(found["completed_at"])
    assert found["transcript"]
    assert found["audio_files"] == ["0.wav"]
    assert [next(iter(entry)) for entry in found["templates"]] == sorted(templates)
    made = {each["template_id"]: each["document_id"] for each in (await bridge.seen(session))["documents"]}
    for entry in found["templates"]:
        ((template, document),) = entry.items()
        assert document["status"] == "success"
        assert document["document_id"] == made[template]
        assert document["data"]
        assert document["publish"] == {}

    one = (await get(bridge, session, template_id="eka_emr_template")).json()
    assert [list(entry) for entry in one["templates"]] == [["eka_emr_template"]]
    assert one["transcript"] == found["transcript"]  # the vendor's own filtered answer may lack it
    by_id = (await get(bridge, session, document_id=made["clinical_notes_template"])).json()
    assert [list(entry) for entry in by_id["templates"]] == [["clinical_notes_template"]]
    bare = await get(bridge, session, template_id="transcript")
    assert (bare.status_code, bare.json()["templates"]) == (200, [])
    envelope(await get(bridge, session, template_id="nope"), 404, "resource_not_found")
    envelope(await get(bridge, session, document_id="nope"), 404, "resource_not_found")
    assert await bridge.calls(f"/sessions/{session}", "GET") == calls


async def test_partial_says_what_failed(bridge: Bridge) -> None:
    session = await finished(bridge, "partial", templates=["eka_emr_template", "fail_template"])
    answer = await get(bridge, session)
    assert answer.status_code == 206
    found = answer.json()
    assert set(found) == RESULT | {"audio_files_processed", "processing_errors"}
    assert found["audio_files_processed"] == 1
    results = {name: each for entry in found["templates"] for name, each in entry.items()}
    assert results["eka_emr_template"]["status"] == "success"
    assert results["fail_template"]["status"] == "failed"
    assert "data" not in results["fail_template"]
    (problem,) = found["processing_errors"]
    assert problem["template_id"] == "fail_template"
    assert (problem["type"], bool(problem["message"])) == ("template_failed", True)


async def test_failed_has_no_result(bridge: Bridge) -> None:
    session = await finished(bridge, "failed")
    answer = await get(bridge, session)
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == ALWAYS | {"error"}
    assert found["status"] == "failed"
    assert found["error"]["code"] == "vendor_failed"
    filtered = await get(bridge, session, template_id="eka_emr_template")
    assert (filtered.status_code, filtered.json()["status"]) == (200, "failed")


async def test_expired_is_410_with_a_session_in_it(house: Bridge) -> None:
    session = await begin(house)
    await expire(house, session)
    client = await python_client(house)
    status, found = await client.get(session)
    assert status == 410
    assert set(found) == ALWAYS | {"expired_at", "message", "templates", "transcript"}
    assert found["status"] == "expired"
    assert (found["templates"], found["transcript"]) == ([], "")
    assert SECONDS.fullmatch(found["expired_at"])
    await house.database.execute(
        "UPDATE sessions SET status = 'expired', settled_at = now() WHERE id = $1", session
    )
    assert (await get(house, session)).status_code == 410


async def test_cancelled_is_200(house: Bridge) -> None:
    session = await begin(house)
    await house.database.execute(
        "UPDATE sessions SET status = 'cancelled', settled_at = now() WHERE id = $1", session
    )
    answer = await get(house, session)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert set(answer.json()) == ALWAYS


async def test_erased_and_unknown_are_404(house: Bridge) -> None:
    session = await begin(house)
    await house.database.execute(
        "UPDATE sessions SET erased_at = now(), details_sealed = NULL WHERE id = $1", session
    )
    for unknown in (session, "ses_does_not_exist_000"):
        error = envelope(await house.api.get(f"/voice/v1/sessions/{unknown}"), 404, "session_not_found")
        assert (error["message"], error["details"]["session_id"]) == ("Session not found", unknown)


async def test_what_is_asked_for_anew_is_pending_until_it_comes(bridge: Bridge) -> None:
    session = await finished(bridge, "completed")
    await bridge.database.execute(
        "INSERT INTO fetches (tenant_id, session_id, template_id, next_at, document_id, asked)"
        " VALUES ($1, $2, 'late_template', now() + interval '1 hour', 'up-77', 'asked')",
        bridge.tenant_id,
        session,
    )
    for params in ({"template_id": "late_template"}, {"document_id": "up-77"}):
        answer = await get(bridge, session, **params)
        assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert (await get(bridge, session)).status_code == 200
    assert (await get(bridge, session, template_id="eka_emr_template")).status_code == 200
