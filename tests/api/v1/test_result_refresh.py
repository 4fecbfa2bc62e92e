"""`POST /v1/sessions/{id}/refresh`, and a client of the protocol that waits: EkaScribe is asked again."""

import time

import pytest

from tests.support.api_calls import hook, problem, until, v2_event
from tests.support.bridge import Bridge


async def failed(bridge: Bridge) -> str:
    """A session that EkaScribe called failed, and has results of now."""
    await bridge.vendor_settings(outcome="failed", webhook_all_outcomes=True)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "fail_b"])
    await bridge.reach(session_id, "failed")
    await bridge.received(1)
    await bridge.vendor_settings(webhooks_enabled=False)
    await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    return session_id


async def refresh(bridge: Bridge, session_id: str) -> int:
    answer = await bridge.api.post(f"/v1/sessions/{session_id}/refresh")
    if answer.status_code == 202:
        assert answer.json()["id"] == session_id
    return answer.status_code


async def until_it_is_done(bridge: Bridge, session_id: str) -> None:
    async def is_done() -> bool:
        pending = "SELECT count(*) FROM fetches WHERE session_id = $1 AND status = 'pending'"
        return await bridge.database.fetchval(pending, session_id) == 0

    await until(is_done)


async def test_a_failed_session_gets_the_documents_that_the_vendor_has_by_now(bridge: Bridge) -> None:
    session_id = await failed(bridge)
    assert await refresh(bridge, session_id) == 202
    session = await bridge.reach(session_id, "partial")
    assert session["error"] is None
    assert session["transcript"]
    _, *told = await bridge.received(3)
    by_template = {each["body"]["data"]["document"]["template_id"]: each["body"]["type"] for each in told}
    assert by_template == {"a_template": "document.ready", "fail_b": "document.failed"}
    entries = await bridge.database.fetch("SELECT actor FROM audit WHERE action = 'session.refreshed'")
    assert len(entries) == 1


async def test_what_is_the_same_changes_nothing(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template"])
    before = await bridge.reach(session_id, "completed")
    await bridge.received(1)
    for _ in range(2):
        assert await refresh(bridge, session_id) == 202
        await until_it_is_done(bridge, session_id)
    after = await bridge.session(session_id)
    assert {**after, "deliveries": before["deliveries"]} == before
    assert len(await bridge.received(1)) == 1
    assert (await bridge.seen(session_id))["get_calls"] == {"a_template": 1, "": 2}


async def test_what_changed_is_a_new_version(bridge: Bridge) -> None:
    await bridge.vendor_settings(rerun_changes=True)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template"])
    await bridge.reach(session_id, "completed")
    await bridge.received(1)
    answer = await bridge.vendor.post(
        f"/voice/v1/sessions/{session_id}/process/template/a_template",
        headers={"Authorization": "Bearer sandbox-token"},
    )
    assert answer.status_code == 202

    async def has_second_version() -> bool:
        assert await refresh(bridge, session_id) == 202
        documents = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
        return any(document["data"].get("revision") == 2 for document in documents)

    await until(has_second_version)


async def test_a_signed_completion_of_a_failed_session_does_the_same(bridge: Bridge) -> None:
    session_id = await failed(bridge)
    assert (await hook(bridge, v2_event(session_id))).json() == {"status": "accepted"}
    await bridge.reach(session_id, "partial")
    assert len(await bridge.received(3)) == 3


async def test_only_what_was_ended_can_be_asked_for(bridge: Bridge) -> None:
    session_id = (await bridge.create())["id"]
    problem(await bridge.api.post(f"/v1/sessions/{session_id}/refresh"), 409, "session_not_finished")
    problem(await bridge.api.post("/v1/sessions/ses_unknown0000000000/refresh"), 404, "not_found")
    stranger = await bridge.tenant()
    problem(await stranger.post(f"/v1/sessions/{session_id}/refresh"), 404, "not_found")
    await bridge.api.delete(f"/v1/sessions/{session_id}")
    problem(await bridge.api.post(f"/v1/sessions/{session_id}/refresh"), 410, "session_erased")


@pytest.mark.parametrize("seconds_ago", [1, 6])
async def test_a_client_that_polls_makes_the_fetch_due_but_not_each_second(
    bridge: Bridge, seconds_ago: int
) -> None:
    await bridge.vendor_settings(webhooks_enabled=False, processing_seconds=0)
    session_id = (await bridge.create(templates=["a_template"]))["id"]
    await bridge.put(session_id, 0)
    await bridge.end(session_id, chunks=1)
    await bridge.database.execute(
        "UPDATE fetches SET next_at = now() + interval '1 hour', "
        "called_at = now() - make_interval(secs => $2) WHERE session_id = $1",
        session_id,
        float(seconds_ago),
    )
    await bridge.start_worker()
    asked = time.monotonic()
    assert (await bridge.api.get(f"/voice/v1/sessions/{session_id}")).status_code == 202
    if seconds_ago > 5:
        await bridge.reach(session_id, "completed")
        assert time.monotonic() - asked < 10
    else:
        due = "SELECT count(*) FROM fetches WHERE session_id = $1 AND next_at < now() + interval '1 minute'"
        assert await bridge.database.fetchval(due, session_id) == 0
