"""Through the protocol, too, what one tenant has does not exist for another."""

from __future__ import annotations

from tests.support.api_calls import chunks_of
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import envelope, form


async def test_no_door_shows_or_touches_another_tenant_s_session(house: Bridge) -> None:
    session = (await house.create(patient={"id": "P-1"}))["id"]
    other = await house.tenant("other")
    url = f"/voice/v1/sessions/{session}"
    body, kind = form({}, "audio_0.wav", b"RIFF")
    for method, path, request in (
        ("GET", url, {}),
        ("GET", f"{url}?template_id=eka_emr_template", {}),
        ("PATCH", url, {"json": {"patient_details": {"oid": "X"}}}),
        ("PATCH", url, {"json": {"user_status": "cancelled"}}),
        ("POST", f"{url}/end", {"json": {"audio_files_sent": 0}}),
        ("POST", f"{url}/audio/audio_0.wav", {"content": b"RIFF"}),
        ("POST", f"{url}/audio/name.wav", {"content": b"RIFF"}),
        ("POST", f"{url}/audio", {"content": body, "headers": {"content-type": kind}}),
        ("POST", f"{url}/process/template/x", {}),
    ):
        answer = await other.request(method, path, **request)
        error = envelope(answer, 404, "session_not_found")
        assert "P-1" not in str(error)
    assert await chunks_of(house, session) == []
    row = await house.database.fetchrow("SELECT status FROM sessions WHERE id = $1", session)
    assert row["status"] == "created"


async def test_a_form_of_another_tenant_s_key_reaches_nothing(house: Bridge) -> None:
    session = (await house.create())["id"]
    other = await house.tenant("other")
    body = {"upload_type": "chunked"}
    made = (await other.post("/voice/v1/sessions?version=v2", json=body)).json()
    content, kind = form(made["upload_url"]["uploadData"]["fields"], "0.mp3", b"ID3")
    answer = await (await house.client(None)).post(
        f"/voice/v1/uploads/{session}", content=content, headers={"content-type": kind}
    )
    envelope(answer, 403, "access_denied")
    assert await chunks_of(house, session) == []
