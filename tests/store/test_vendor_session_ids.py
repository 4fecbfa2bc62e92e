"""A session that was made again at the vendor is known there by another id, and here by its own."""

from __future__ import annotations

import asyncio

from service.domain.ids import SessionId, VendorSessionId, new_vendor_session_id
from tests.support.makers import NOTE, make_lease
from tests.support.sessions_in_store import erase
from tests.support.store_house import House


async def rename(house: House, session_id: SessionId) -> VendorSessionId:
    vendor_id = new_vendor_session_id()
    await house.connection.execute(
        "UPDATE sessions SET vendor_session_id = $2 WHERE id = $1", session_id, vendor_id
    )
    return vendor_id


async def test_every_call_of_a_session_goes_to_its_id_at_the_vendor(house):
    session_id = await house.create(templates=[NOTE])
    vendor_id = await rename(house, session_id)
    assert (await house.claim_chunk(session_id, 0, b"audio")).vendor_id == vendor_id
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        assert unit.state.vendor_id == vendor_id
    async with house.stores.sessions.ending(house.tenant_id, session_id) as unit:
        assert unit.state.vendor_id == vendor_id
        await unit.begin(make_lease(), lease_seconds=0, reconcile_seconds=0)
    (pending,) = await house.stores.sessions.claim_pending_calls(1, 60)
    assert (pending.session_id, pending.vendor_id) == (session_id, vendor_id)
    plan = await house.stores.sessions.read_plan(session_id, pending.lease)
    assert (plan.id, plan.vendor_id) == (session_id, vendor_id)
    (job,) = await house.claim_fetches(session_id)
    assert (job.session_id, job.vendor_id) == (session_id, vendor_id)
    async with house.stores.additional_documents.opening(house.tenant_id, session_id, NOTE) as unit:
        assert unit.state.vendor_id == vendor_id


async def test_a_session_has_the_same_id_at_the_vendor_unless_it_was_made_again(house):
    session_id = await house.create()
    assert (await house.claim_chunk(session_id, 0, b"audio")).vendor_id == session_id


async def test_an_event_finds_its_session_by_the_vendor_s_present_id_only(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    vendor_id = await rename(house, session_id)
    old = await house.hear(session_id)
    assert (old.phase, old.is_first, old.due, old.session_id) == ("unknown", True, 0, session_id)
    assert await house.claim_fetches(session_id) == []
    new = await house.hear(vendor_id)
    assert (new.phase, new.is_first, new.due, new.session_id) == ("ended", True, 1, session_id)
    (job,) = await house.claim_fetches(session_id)
    assert job.was_announced
    assert not (await house.hear(vendor_id)).is_first


async def test_events_of_both_ids_in_one_batch_do_the_same(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    vendor_id = await rename(house, session_id)
    _, old, new, other = await asyncio.gather(
        house.hear("ses_first"), house.hear(session_id), house.hear(vendor_id), house.hear("ses_other")
    )
    assert (old.phase, old.due, old.session_id) == ("unknown", 0, session_id)
    assert (new.phase, new.due, new.session_id) == ("ended", 1, session_id)
    assert (other.phase, other.due, other.session_id) == ("unknown", 0, None)


async def test_an_old_event_revives_no_session_that_failed(house):
    session_id = await house.end(NOTE)
    await rename(house, session_id)
    await house.connection.execute("UPDATE sessions SET status = 'failed', settled_at = now()")
    assert (await house.hear(session_id)).due == 0
    assert await house.value("SELECT count(*) FROM fetches WHERE template_id = ''") == 0


async def test_both_ids_are_in_the_timeline_and_in_an_erasure(house):
    session_id = await house.end(NOTE, reconcile_seconds=120)
    vendor_id = await rename(house, session_id)
    await house.hear(session_id, "failed")
    before = await house.stores.sessions.timeline_tokens([session_id])
    await house.hear(vendor_id, "completed")
    assert await house.stores.sessions.timeline_tokens([session_id]) != before
    await erase(house, session_id)
    assert await house.value("SELECT count(*) FROM webhook_events") == 0
    assert (await house.hear(vendor_id)).phase == "unknown"
    assert (await house.hear(session_id)).phase == "unknown"
    assert await house.value("SELECT count(*) FROM webhook_events") == 0


async def test_the_trace_of_a_session_is_found_by_both_ids(house):
    session_id = await house.create()
    vendor_id = await rename(house, session_id)
    await house.connection.execute("UPDATE sessions SET traceparent = 'trace'")
    for each in (session_id, SessionId(vendor_id)):
        assert await house.stores.sessions.traceparent(each) == "trace"
