"""Audio that the vendor had confirmed and then does not list is told wherever the session's result is."""

import json
from typing import Any

import pytest

from tests.support.bridge import Bridge

WARNING = {
    "code": "audio_incomplete",
    "message": "EkaScribe does not have every chunk of this session; the documents may have gaps",
}


async def dictate(house: Bridge, **ended: Any) -> str:
    """Three chunks, an end that the vendor answers so, and a worker that fetches the result."""
    session = await house.create()
    for sequence in range(3):
        assert (await house.put(session["id"], sequence)).status_code == 200
    body = {"session_id": session["id"], "status": "processing", **ended}
    await house.fault(f"{session['id']}/end$", status=202, body=json.dumps(body), when="after")
    assert (await house.end(session["id"], chunks=3)).status_code == 202
    return str(session["id"])


@pytest.mark.parametrize(
    ("ended", "more"),
    [
        ({"audio_files_received": 2, "audio_files": ["s3://v/x/0.wav", "s3://v/x/2.wav"]}, {"missing": [1]}),
        ({"audio_files_received": 2}, {}),
    ],
)
async def test_a_chunk_that_is_gone_is_told_with_the_session_its_documents_and_events(
    bridge: Bridge, ended: dict[str, Any], more: dict[str, Any]
) -> None:
    await bridge.add_destination()
    session_id = await dictate(bridge, **ended)
    wanted = [WARNING | more]
    assert (await bridge.session(session_id))["warnings"] == wanted
    await bridge.start_worker()
    await bridge.reach(session_id, "completed")
    assert (await bridge.session(session_id))["warnings"] == wanted
    (listed,) = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
    assert listed["warnings"] == wanted
    assert (await bridge.api.get(f"/v1/documents/{listed['id']}")).json()["warnings"] == wanted
    (delivery,) = await bridge.received(1, type="document.ready")
    assert delivery["body"]["data"]["warnings"] == wanted


async def test_a_whole_list_warns_of_nothing(house: Bridge) -> None:
    session_id = await house.dictate(chunks=3)
    assert (await house.session(session_id))["warnings"] == []


async def test_an_end_whose_answer_was_lost_is_compared_with_a_get(house: Bridge) -> None:
    session = await house.create()
    for sequence in range(3):
        assert (await house.put(session["id"], sequence)).status_code == 200
    await house.fault(f"{session['id']}/end$", when="after", mode="reset")
    body = {"session_id": session["id"], "status": "processing", "audio_files": ["s3://v/x/0.wav"]}
    await house.fault(f"{session['id']}$", method="GET", status=202, body=json.dumps(body))
    assert (await house.end(session["id"], chunks=3)).status_code == 202
    assert (await house.session(session["id"]))["warnings"] == [WARNING | {"missing": [1, 2]}]
    assert await house.calls(f"{session['id']}/end$") == 1
