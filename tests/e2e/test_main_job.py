"""The main job: a dictation becomes a document in the EMR's hands, whichever server the vendor is."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from service.sandbox.vendor.characters import CharacterName
from tests.support.bridge import Bridge, open_bridge
from tests.support.characters import CHARACTERS


@pytest.fixture(params=CHARACTERS)
def character(request: pytest.FixtureRequest) -> CharacterName:
    """Each of the servers that the vendor can be."""
    return request.param


@pytest.fixture
async def each_bridge(character: CharacterName, database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    """A bridge to it, which soon asks for results that no webhook announces: August sends none."""
    async with open_bridge(
        database_url, redis_url, character=character, reconcile_after_seconds=0.5
    ) as opened:
        yield opened


def calls_of(character: CharacterName, *templates: str) -> dict[str, int]:
    """One call for each template, and one without a filter where filtered answers carry no transcript."""
    filters = templates if character == "hosted" else (*templates, "")
    return dict.fromkeys(filters, 1)


async def test_a_dictation_reaches_the_emr(each_bridge: Bridge, character: CharacterName) -> None:
    bridge = each_bridge
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
    seen = await bridge.seen(session_id)
    assert seen["get_calls"] == calls_of(character, "eka_emr_template", "clinical_notes_template")
    assert seen["patient"] == {"oid": "PAT-1", "name": "Asha Rao"}


async def test_a_dictation_without_templates_is_one_call(each_bridge: Bridge) -> None:
    bridge = replace(each_bridge, api=await each_bridge.tenant())  # this one has no default template
    await bridge.start_worker()
    session_id = await bridge.dictate()
    session = await bridge.reach(session_id, "completed")
    assert session["transcript"].startswith("Received 2 audio files")
    assert (await bridge.seen(session_id))["get_calls"] == {"": 1}


async def test_a_hundred_webhooks_make_one_call_per_template(
    each_bridge: Bridge, character: CharacterName
) -> None:
    bridge = each_bridge
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
    assert seen["get_calls"] == calls_of(character, "eka_emr_template", "clinical_notes_template")
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))


async def test_a_row_that_cannot_be_opened_stops_nobody_else(database_url: str, redis_url: str) -> None:
    """One damaged session, first in every round of the sweep, and one damaged event in every claim."""
    async with open_bridge(database_url, "redis://127.0.0.1:1/0") as bridge:
        await bridge.add_destination()
        damaged = (await bridge.create(reference="damaged"))["id"]
        await bridge.database.execute(
            "UPDATE sessions SET details_sealed = '\\x00', expires_at = now() - interval '1 hour'"
            " WHERE id = $1",
            damaged,
        )
        worker = await bridge.start_worker()
        await bridge.dictate(reference="first")
        assert (await bridge.received(1))[0]["body"]["data"]["reference"] == "first"
        await worker.stop()
        await bridge.database.execute("UPDATE events SET body_sealed = '\\x00'")
        await bridge.database.execute(
            "UPDATE deliveries SET status = 'pending', next_at = now() - interval '1 hour', settled_at = NULL"
        )
        await bridge.dictate(reference="second")
        await bridge.start_worker()
        assert (await bridge.received(2))[1]["body"]["data"]["reference"] == "second"


async def test_an_answer_that_nobody_foresaw_costs_no_document(bridge: Bridge) -> None:
    """JSON nested beyond what can be read: one call without a filter brings the document."""
    await bridge.add_destination()
    deep = '{"templates": ' + "[" * 5000 + "]" * 5000 + "}"
    await bridge.fault("/sessions/ses_[^/]*$", method="GET", mode="respond", status=200, body=deep, times=1)
    await bridge.start_worker()
    session_id = await bridge.dictate()
    assert (await bridge.received(1))[0]["body"]["data"]["session_id"] == session_id
    assert (await bridge.seen(session_id))["get_calls"] == {"": 1}
    assert await bridge.calls(f"/sessions/{session_id}$", "GET") == 2
