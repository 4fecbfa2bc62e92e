"""The main job: a dictation becomes a document in the EMR's hands."""

import asyncio
import json

from tests.bridge import Bridge


async def test_a_dictation_reaches_the_emr(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(
        templates=["eka_emr_template", "clinical_notes_template"],
        reference="ENC-7",
        patient={"id": "PAT-1", "name": "Asha Rao"},
        metadata={"ward": "7"},
    )
    received = await bridge.received(2)
    assert [entry["verified"] for entry in received] == [True, True]
    events = [entry["body"] for entry in received]
    assert {event["data"]["document"]["template_id"] for event in events} == {
        "eka_emr_template",
        "clinical_notes_template",
    }
    for event in events:
        assert event["type"] == "document.ready"
        assert event["data"]["session_id"] == session_id
        assert event["data"]["reference"] == "ENC-7"
        assert event["data"]["patient"] == {"id": "PAT-1"}
        assert event["data"]["metadata"] == {"ward": "7"}
        assert event["data"]["transcript"].startswith("Received 2 audio files")
    session = await bridge.reach(session_id, "completed")
    assert len(session["documents"]) == 2


async def test_a_hundred_webhooks_make_one_call_per_template(bridge: Bridge) -> None:
    await bridge.vendor_settings(webhooks_enabled=False)
    await bridge.start_worker()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["eka_emr_template", "clinical_notes_template"])
    (await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"}))
    answer = await bridge.vendor.post(
        "/_control/webhooks/send",
        json={
            "url": f"{bridge.url}/webhooks/eka",
            "secret": "vendor-signing-key",
            "session_id": session_id,
            "copies": 100,
        },
    )
    statuses = sorted(json.loads(each["body"])["status"] for each in answer.json()["answers"])
    assert statuses == ["accepted"] + ["duplicate"] * 99
    await bridge.reach(session_id, "completed")
    seen = await bridge.seen(session_id)
    assert seen["get_calls"] == {"eka_emr_template": 1, "clinical_notes_template": 1}
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))
