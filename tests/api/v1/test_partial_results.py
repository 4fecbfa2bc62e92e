"""A session that is partial for now, one that is mended later, and hints that the vendor confirms or not."""

import asyncio
import time
from typing import Any

import pytest

from tests.support.api_calls import hook, until, v2_event
from tests.support.bridge import Bridge


async def documents(bridge: Bridge, session_id: str) -> list[tuple[str, str, int]]:
    found = await bridge.api.get(f"/v1/sessions/{session_id}/documents")
    return [(each["template_id"], each["status"], each["version"]) for each in found.json()["items"]]


async def test_what_is_ready_is_filed_now_and_the_rest_when_it_comes(bridge: Bridge) -> None:
    await bridge.vendor_settings(
        partial_while_pending=True, slow_template_seconds=2.5, webhook_all_outcomes=True
    )
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "slow_b"])
    shown = await bridge.reach(session_id, "partial")
    assert shown["completed_at"] is None
    assert [each["template_id"] for each in shown["documents"]] == ["a_template"]
    (first,) = await bridge.received(1)
    assert first["body"]["data"]["document"]["template_id"] == "a_template"
    assert first["body"]["data"]["session_status"] == "processing"
    assert first["body"]["data"]["transcript"]

    # Whoever waits at a session that is partial for now is answered when it is complete.
    started = time.monotonic()
    answer = await bridge.api.get(f"/v1/sessions/{session_id}", params={"wait": 20})
    assert time.monotonic() - started < 10
    session = answer.json()
    assert session["status"] == "completed"
    assert session["completed_at"] > shown["ended_at"]
    _, second = await bridge.received(2)
    assert second["body"]["data"]["document"]["template_id"] == "slow_b"
    # The document does not wait for the unfiltered answer, which decides the session's final status.
    assert second["body"]["data"]["session_status"] in {"partial", "completed"}
    assert await documents(bridge, session_id) == [("a_template", "success", 1), ("slow_b", "success", 1)]
    seen = await bridge.seen(session_id)
    assert seen["get_calls"]["a_template"] == 1
    timeline = (await bridge.api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
    types = [entry["type"] for entry in timeline]
    assert (types.count("session.completed"), types.count("session.partial")) == (1, 0)


async def test_a_rest_that_fails_leaves_it_partial(bridge: Bridge) -> None:
    await bridge.vendor_settings(webhook_all_outcomes=True)
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "fail_b"])
    await bridge.reach(session_id, "partial")

    async def is_final() -> bool:
        return (await bridge.session(session_id))["completed_at"] is not None

    await until(is_final)
    started = time.monotonic()
    answer = await bridge.api.get(f"/v1/sessions/{session_id}", params={"wait": 20})
    assert time.monotonic() - started < 2
    assert answer.json()["status"] == "partial"


async def mended(bridge: Bridge, **settings: Any) -> str:
    """A session that ended partial, its last template failed, and whose vendor then completed it."""
    await bridge.vendor_settings(outcome="partial", webhook_all_outcomes=True, **settings)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "b_template"])
    await bridge.received(2)
    session = await bridge.session(session_id)
    assert (session["status"], session["error"]) == ("partial", None)
    await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    return session_id


async def test_a_failed_document_that_succeeds_later_gets_a_new_version(bridge: Bridge) -> None:
    session_id = await mended(bridge)
    first, second, third = await bridge.received(3)
    by_template = {
        each["body"]["data"]["document"]["template_id"]: each["body"]["type"] for each in (first, second)
    }
    assert by_template == {"a_template": "document.ready", "b_template": "document.failed"}
    document = third["body"]["data"]["document"]
    assert (document["template_id"], document["status"], document["version"]) == ("b_template", "success", 2)
    assert third["body"]["data"]["session_status"] == "completed"
    session = await bridge.reach(session_id, "completed")
    assert session["completed_at"] is not None
    assert await documents(bridge, session_id) == [("a_template", "success", 1), ("b_template", "success", 2)]
    seen = await bridge.seen(session_id)
    # Asked without a filter: of the failure's reason, and again after the completion.
    assert seen["get_calls"] == {"a_template": 1, "b_template": 1, "": 2}

    # Saying it again costs no further call.
    for _ in range(3):
        assert (await hook(bridge, v2_event(session_id))).json() == {"status": "duplicate"}
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))
    assert (await bridge.seen(session_id))["get_calls"] == seen["get_calls"]
    assert len(await bridge.received(3)) == 3


async def test_a_document_that_fails_again_is_not_told_again(bridge: Bridge) -> None:
    await bridge.vendor_settings(webhook_all_outcomes=True)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "fail_b"])

    async def both_are_delivered() -> bool:
        return (await bridge.session(session_id))["deliveries"]["delivered"] == 2

    await until(both_are_delivered)
    before = await bridge.session(session_id)
    assert (await hook(bridge, v2_event(session_id))).json() == {"status": "accepted"}

    async def was_asked_again() -> bool:
        rows = await bridge.database.fetch(
            "SELECT 1 FROM fetches WHERE session_id = $1 AND status = 'pending'", session_id
        )
        return not rows and (await bridge.seen(session_id))["get_calls"][""] == 2

    await until(was_asked_again)
    assert await bridge.session(session_id) == before
    assert len(await bridge.received(2)) == 2


@pytest.mark.parametrize("kind", ["expired", "failed"])
async def test_a_session_that_the_vendor_ended_by_itself_has_its_ending(bridge: Bridge, kind: str) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = (await bridge.create(reference="ENC-1"))["id"]
    await bridge.put(session_id, 0)
    await bridge.vendor_settings(webhook_all_outcomes=True, webhook_shape="protocol")
    await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": kind})
    session = await bridge.reach(session_id, kind)
    assert session["ended_at"] is None
    (received,) = await bridge.received(1)
    assert received["body"]["type"] == f"session.{kind}"
    assert received["body"]["data"]["reference"] == "ENC-1"
    assert (await bridge.seen(session_id))["get_calls"] == {"": 1}
    assert (await bridge.end(session_id)).status_code == 409
    assert (await bridge.seen(session_id))["end_calls"] == 0


@pytest.mark.parametrize("kind", ["expired", "failed"])
async def test_a_hint_that_the_vendor_does_not_confirm_changes_nothing(bridge: Bridge, kind: str) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = (await bridge.create(templates=["a_template"]))["id"]
    await bridge.put(session_id, 0)
    assert (await hook(bridge, v2_event(session_id, f"session.{kind}"))).json() == {"status": "accepted"}

    async def is_forgotten() -> bool:
        rows = await bridge.database.fetch("SELECT 1 FROM fetches WHERE session_id = $1", session_id)
        return not rows

    await until(is_forgotten)
    assert (await bridge.session(session_id))["status"] == "recording"
    assert (await bridge.seen(session_id))["get_calls"] == {"": 1}
    assert (await hook(bridge, v2_event(session_id, f"session.{kind}"))).json() == {"status": "duplicate"}
    await bridge.put(session_id, 1)
    assert (await bridge.end(session_id, chunks=2)).status_code == 202
    assert (await bridge.reach(session_id, "completed"))["documents"][0]["template_id"] == "a_template"
    assert (await bridge.seen(session_id))["get_calls"] == {"": 1, "a_template": 1}


async def test_an_end_takes_the_place_of_a_look_that_is_under_way(bridge: Bridge) -> None:
    session_id = (await bridge.create())["id"]
    await bridge.put(session_id, 0)
    await hook(bridge, v2_event(session_id, "session.expired"))
    assert (await bridge.end(session_id, chunks=1)).status_code == 202
    rows = await bridge.database.fetch("SELECT template_id FROM fetches WHERE session_id = $1", session_id)
    assert [row["template_id"] for row in rows] == ["eka_emr_template"]


async def test_a_session_of_each_ending_reaches_the_emr_as_the_right_event(bridge: Bridge) -> None:
    await bridge.vendor_settings(webhook_all_outcomes=True)
    await bridge.add_destination()
    await bridge.start_worker()

    async def dictate(name: str, outcome: str, *templates: str) -> str:
        session = await bridge.create(templates=list(templates) or ["a_template"], reference=name)
        await bridge.vendor_settings(outcomes={session["id"]: outcome})
        await bridge.put(session["id"], 0)
        await bridge.end(session["id"], chunks=1)
        await bridge.reach(session["id"], name)
        return str(session["id"])

    await dictate("completed", "completed")
    await dictate("partial", "completed", "a_template", "fail_b")
    await dictate("failed", "failed")
    await dictate("expired", "expired")
    late = (await bridge.create(reference="late"))["id"]
    await bridge.put(late, 0)
    await bridge.database.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", late)
    await bridge.reach(late, "expired")
    gone = (await bridge.create(reference="cancelled"))["id"]
    await bridge.put(gone, 0)
    answer = await bridge.api.patch(f"/voice/v1/sessions/{gone}", json={"user_status": "cancelled"})
    assert answer.status_code == 200
    await bridge.reach(gone, "cancelled")

    received = await bridge.received(6)
    told = sorted(
        (each["body"]["data"]["reference"], each["body"]["type"], each["body"]["data"]["session_status"])
        for each in received
    )
    assert told == [
        ("completed", "document.ready", "completed"),
        ("expired", "session.expired", "expired"),
        ("failed", "session.failed", "failed"),
        ("late", "session.expired", "expired"),
        ("partial", "document.failed", "partial"),
        ("partial", "document.ready", "processing"),
    ]
