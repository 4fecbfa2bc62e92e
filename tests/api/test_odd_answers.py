"""One odd field of EkaScribe's answer never costs a dictation: it is delivered, and told as a warning."""

import json
from typing import Any

import pytest

from tests.support.bridge import Bridge

NOTE = "a_template"
DEEP = '{"k":' * 1000 + '"bottom"' + "}" * 1000


def answer(session_id: str, *, data: str = '{"note": "fever"}', more: str = "") -> str:
    """An answer to Get Session as JSON text; `data` and `more` are put in as they are."""
    entry = f'{{"{NOTE}": {{"status": "success", "document_id": "doc-1", "data": {data}}}}}'
    fields = (
        f'"session_id": "{session_id}", "status": "completed", "transcript": "Fever", "templates": [{entry}]'
    )
    return f"{{{fields}{more}}}"


ODD: dict[str, tuple[Any, bool]] = {
    "counts as text": (lambda s: answer(s, more=', "audio_files_received": "2"'), False),
    "a number as an id": (lambda s: answer(s).replace('"doc-1"', "4711"), True),
    "an id of 4,000 characters": (lambda s: answer(s).replace("doc-1", "x" * 4000), True),
    "a transcript as a list": (lambda s: answer(s).replace('"Fever"', '["Fe", "ver"]'), True),
    "half a surrogate pair": (lambda s: answer(s, data='{"note": "a\\ud800b"}'), True),
    "a byte order mark": (lambda s: "\ufeff" + answer(s), True),
    "NaN": (lambda s: answer(s, data='{"note": NaN}'), True),
    "a number beyond a double": (lambda s: answer(s, data='{"note": 1e400}'), True),
    "a thousand levels": (lambda s: answer(s, data=DEEP), True),
    "five hundred levels": (lambda s: answer(s, data='{"k":' * 500 + '"bottom"' + "}" * 500), False),
    "times as numbers": (
        lambda s: answer(s, more=', "completed_at": 1795991103, "expires_at": 1795991103'),
        False,
    ),
    "a map of templates": (lambda s: answer(s).replace("[{", "{").replace("}]", "}"), False),
    "a NUL": (lambda s: answer(s, data='{"note": "a\\u0000b"}'), False),
    "errors that are no list": (lambda s: answer(s, more=', "processing_errors": 7'), True),
}


@pytest.mark.parametrize("name", ODD)
async def test_it_is_delivered_and_can_be_read_again(bridge: Bridge, name: str) -> None:
    make, is_warned = ODD[name]
    await bridge.add_destination()
    await bridge.vendor_settings(webhooks_enabled=False)
    session_id = (await bridge.create(templates=[NOTE]))["id"]
    await bridge.put(session_id, 0)
    await bridge.fault(f"{session_id}$", method="GET", times=None, status=200, body=make(session_id))
    await bridge.end(session_id, chunks=1)
    await bridge.database.execute("UPDATE fetches SET next_at = now() WHERE session_id = $1", session_id)
    await bridge.start_worker()
    session = await bridge.reach(session_id, "completed")
    assert session["transcript"] in {"Fever", "Fe\nver"}
    assert ("vendor_field_unexpected" in {each["code"] for each in session["warnings"]}) is is_warned

    (received,) = await bridge.received(1)
    event = received["body"]
    assert event["type"] == "document.ready"
    listed = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
    (document,) = listed
    assert document["data"] == event["data"]["document"]["data"]
    assert document["data"]
    if "levels" in name:
        assert "bottom" in json.dumps(document["data"])


@pytest.mark.parametrize(
    "address", ["https://[", "https://eka.example:99999/", "https://a b/", "https://" + "a" * 70_000]
)
async def test_an_address_that_cannot_be_read_does_not_cost_the_other_documents(
    bridge: Bridge, address: str
) -> None:
    await bridge.add_destination()
    await bridge.vendor_settings(webhooks_enabled=False)
    session_id = (await bridge.create(templates=[NOTE, "other_template"]))["id"]
    await bridge.put(session_id, 0)
    other = {"status": "success", "document_id": "doc-2", "data": None, "presigned_url": address}
    body = answer(session_id).replace(
        '"templates": [', f'"templates": [{json.dumps({"other_template": other})}, '
    )
    await bridge.fault(f"{session_id}$", method="GET", times=None, status=200, body=body)
    await bridge.end(session_id, chunks=1)
    await bridge.database.execute("UPDATE fetches SET next_at = now() WHERE session_id = $1", session_id)
    await bridge.start_worker()
    (received,) = await bridge.received(1)
    assert received["body"]["type"] == "document.ready"
    assert received["body"]["data"]["document"]["data"] == {"note": "fever"}
