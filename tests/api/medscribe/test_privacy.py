"""Nothing that a client of the protocol sends shows in our log: no patient, no file's name, no token."""

from __future__ import annotations

import pytest

from tests.support.bridge import Bridge
from tests.support.medscribe_clients import browser_client, form


async def test_the_log_holds_ids_and_sizes_only(house: Bridge, capfd: pytest.CaptureFixture[str]) -> None:
    browser = await browser_client(house)
    session = await browser.create(
        patient_details={"oid": "MARK-oid", "name": "MARK-name"}, additional_data={"note": "MARK-note"}
    )
    await browser.post_form(session["upload_url"], "MARK-file_1.mp3", b"MARK-audio")
    url = f"/voice/v1/sessions/{session['session_id']}"
    body, _ = form({"MARK-field": "MARK-value"}, "MARK-part_2.mp3", b"MARK-audio")
    await browser.call("POST", f"{url}/audio/MARK-path_2.mp3", 200, content=body)
    await browser.call("POST", f"{url}/audio/MARK-path.flac", 400, content=b"x")
    await browser.call("PATCH", url, 200, json={"patient_details": {"oid": "MARK-other"}})
    await browser.get(session["session_id"], template_id="MARK-template")
    await browser.call("POST", "/voice/v1/sessions", 400, json={"upload_type": "MARK-type"})
    out, err = capfd.readouterr()
    said = out + err
    assert said.count("/voice/v1/sessions/{session_id}") >= 4
    assert "MARK" not in said
    assert browser.token not in said
    assert session["upload_url"]["uploadData"]["fields"]["x-scribe-token"] not in said
    assert house.api.headers["authorization"].removeprefix("Bearer ") not in said
