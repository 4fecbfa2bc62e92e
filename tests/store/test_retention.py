"""Content and rows go when their days are over, by the erasure of DELETE, and nothing goes that waits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import asyncpg
import pytest
from msgspec import UNSET

from service.domain.errors import InvalidRequest, NotFound
from service.domain.ids import SessionId, TenantId
from service.domain.sessions.models import VendorEnd
from service.domain.tenants.changes import RetentionChange, Tenants
from service.jobs.retention import RetentionJob
from service.store.retention import RetentionDue
from tests.support.makers import NOTE, make_document, make_lease, make_principal, make_result
from tests.support.rig import until
from tests.support.store_house import House, new_tenant

TABLES = (
    *("sessions", "chunks", "fetches", "documents", "events", "deliveries", "attempts", "webhook_events"),
    *("idempotency_keys", "streams", "stream_connections"),
)


async def keep(house: House, content: Any = UNSET, metadata: Any = UNSET) -> None:
    change = RetentionChange(content_days=content, rows_days=metadata)
    await Tenants(house.stores.tenants).change_retention(house.tenant_id, change)


async def age(house: House, session_id: SessionId, days: float) -> None:
    """Let so many days pass for one session."""
    await house.connection.execute(
        "UPDATE sessions SET created_at = created_at - $2 * interval '1 day', "
        "ended_at = ended_at - $2 * interval '1 day', settled_at = settled_at - $2 * interval '1 day' "
        "WHERE id = $1",
        session_id,
        days,
    )


async def run(house: House) -> None:
    await RetentionJob(house.stores.retention).run()


async def delivered(house: House, status: str = "delivered", **fields: Any) -> SessionId:
    session_id = await house.create(templates=[NOTE])
    await house.store_chunk(session_id, 0)
    lease = await house.begin_end(session_id)
    await house.record_end(session_id, lease, VendorEnd(files_received=1))
    await house.hear(session_id)
    await finish(house, session_id)
    for job in await house.claim_deliveries(session_id):
        await house.record(job, status=status, record_id="NOTE-77", **fields)
    return session_id


async def finish(house: House, session_id: SessionId) -> None:
    for job in await house.claim_fetches(session_id):
        result = make_result("completed", make_document(job.template_id), transcript="words")
        await house.fetch(job, result)


async def is_erased(house: House, session_id: SessionId) -> bool:
    return bool(await house.value("SELECT erased_at IS NOT NULL FROM sessions WHERE id = $1", session_id))


async def trail(house: House, action: str) -> list[asyncpg.Record]:
    return await house.connection.fetch("SELECT * FROM audit WHERE action = $1 ORDER BY id", action)


async def test_content_goes_when_its_days_are_over_and_not_before(house):
    await house.add_destination()
    await keep(house, content=30)
    old, young = await delivered(house), await delivered(house)
    await age(house, old, 30.1)
    await age(house, young, 29.9)
    await run(house)
    assert (await is_erased(house, old), await is_erased(house, young)) == (True, False)
    for table, column in (
        *(("sessions", "transcript_sealed"), ("sessions", "details_sealed"), ("documents", "data_sealed")),
        ("events", "body_sealed"),
    ):
        place = "id" if table == "sessions" else "session_id"
        query = f"SELECT count({column}) FROM {table} WHERE {place} = $1"
        assert (await house.value(query, old), await house.value(query, young)) == (0, 1), (table, column)
    for table in ("chunks", "webhook_events", "fetches"):
        assert await house.value(f"SELECT count(*) FROM {table} WHERE session_id = $1", old) == 0, table


async def test_the_trail_has_an_entry_with_counts_and_a_hash_and_no_content(house):
    await house.add_destination()
    await keep(house, content=1)
    session_id = await delivered(house)
    ids = [session_id]
    for table in ("documents", "deliveries"):
        ids += [row["id"] for row in await house.connection.fetch(f"SELECT id FROM {table}")]
    await age(house, session_id, 2)
    await run(house)
    (entry,) = await trail(house, "session.erased")
    assert (entry["actor"], entry["object_id"]) == ("retention", session_id)
    assert entry["tenant_id"] == house.tenant_id
    assert json.loads(entry["facts"]) == {
        "documents": 1,
        "deliveries": 1,
        "sha256": hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest(),
    }


async def test_rows_go_later_and_their_entries_stay(house):
    await house.add_destination()
    await keep(house, content=10, metadata=20)
    old, young = await delivered(house), await delivered(house)
    for session_id, days in ((old, 15), (young, 15)):
        await age(house, session_id, days)
    await run(house)
    assert await is_erased(house, old)
    await age(house, old, 6)
    await run(house)
    assert [row["id"] for row in await house.connection.fetch("SELECT id FROM sessions")] == [young]
    for table in ("documents", "events", "deliveries", "attempts"):
        assert await house.value(f"SELECT count(*) FROM {table}") == 1, table  # the younger one's
    (entry,) = await trail(house, "session.deleted")
    assert (entry["actor"], entry["object_id"]) == ("retention", old)
    assert set(json.loads(entry["facts"])) == {"documents", "deliveries", "sha256"}
    assert [each["object_id"] for each in await trail(house, "session.erased")].count(old) == 1


async def test_with_days_for_rows_alone_the_content_goes_with_them(house):
    await keep(house, metadata=5)
    session_id = await delivered(house)
    await age(house, session_id, 6)
    await run(house)
    for table in TABLES:
        assert await house.value(f"SELECT count(*) FROM {table}") == 0, table


async def paused(house: House) -> SessionId:
    await house.add_destination()
    return await delivered(house, "paused", pause_destination=True)


async def pending(house: House) -> SessionId:
    await house.add_destination()
    return await delivered(house, "pending", wait_seconds=60)


async def fetched_again(house: House) -> SessionId:
    session_id = await delivered(house)
    await house.connection.execute(
        "UPDATE fetches SET status = 'pending', next_at = now() + interval '1 day'"
    )
    return session_id


async def unreleased(house: House) -> SessionId:
    session_id = await delivered(house)
    await house.connection.execute("UPDATE documents SET released_at = NULL")
    return session_id


async def unended(house: House) -> SessionId:
    return await house.create()


async def processing(house: House) -> SessionId:
    return await house.end(NOTE)


async def cancel_owed(house: House) -> SessionId:
    session_id = await house.end(NOTE)
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.cancel(make_lease(), 60)
    return session_id


@pytest.mark.parametrize(
    "state", [paused, pending, fetched_again, unreleased, unended, processing, cancel_owed]
)
async def test_what_is_in_flight_or_waits_stays_however_old_it_is(house, state):
    await keep(house, content=1, metadata=1)
    session_id = await state(house)
    await age(house, session_id, 400)
    for rows in (False, True):  # nor does it stand in the way of others
        assert await house.stores.retention.due(10, rows=rows) == []
    await run(house)
    assert await house.value("SELECT count(*) FROM sessions WHERE erased_at IS NULL") == 1
    assert await trail(house, "session.erased") == []


async def test_what_is_dead_goes_in_time_and_cannot_be_sent_again(house):
    await house.add_destination()
    await keep(house, content=1)
    session_id = await delivered(house, "dead", reason="http_422")
    await age(house, session_id, 2)
    await run(house)
    assert await is_erased(house, session_id)
    assert tuple(await house.connection.fetchrow("SELECT status, reason FROM deliveries")) == (
        "dead",
        "http_422",
    )


async def test_a_session_that_never_came_to_be_goes_too(house):
    await keep(house, content=1)
    lease = make_lease()
    session_id = await house.insert(lease)
    await house.stores.sessions.record_never_created(session_id, lease, "vendor_error", "no")
    await age(house, session_id, 2)
    await run(house)
    assert await is_erased(house, session_id)


async def test_each_tenant_has_days_of_its_own(house):
    await keep(house, content=1)
    mine = await delivered(house)
    mine_id, house.tenant_id = house.tenant_id, await new_tenant(house.stores, "second")
    theirs = await delivered(house)
    for session_id in (mine, theirs):
        await age(house, session_id, 1000)
    await run(house)
    assert (await is_erased(house, mine), await is_erased(house, theirs)) == (True, False)
    (entry,) = await trail(house, "session.erased")
    assert entry["tenant_id"] == mine_id


async def test_a_session_that_somebody_holds_is_passed_over(house):
    await keep(house, content=1)
    held, free = await delivered(house), await delivered(house)
    for session_id in (held, free):
        await age(house, session_id, 2)
    async with house.connection.transaction():
        await house.connection.execute("SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", held)
        await asyncio.wait_for(run(house), 10)
    assert (await is_erased(house, held), await is_erased(house, free)) == (False, True)


async def test_a_delivery_that_was_sent_again_meanwhile_keeps_its_session(house):
    await house.add_destination()
    await keep(house, content=1)
    session_id = await delivered(house, "dead", reason="http_422")
    await age(house, session_id, 2)
    (found,) = await house.stores.retention.due(10, rows=False)
    # Held by a retry that is not committed yet: the look at the session alone cannot see it.
    retry = house.connection.transaction()
    await retry.start()
    await house.connection.execute(
        "UPDATE deliveries SET status = 'pending', next_at = now(), settled_at = NULL"
    )
    erasing = asyncio.create_task(house.stores.retention.erase(found))

    async def is_waiting() -> bool:
        row = await house.stores.database.fetchrow(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return row is not None or erasing.done()

    await until(is_waiting)
    await retry.commit()
    assert not await asyncio.wait_for(erasing, 10)
    assert not await is_erased(house, session_id)


async def test_more_than_a_batch_goes_in_several_and_then_there_is_a_pause(house):
    await keep(house, content=1)
    for _ in range(25):
        await age(house, await house.finish(), 2)
    retention = RetentionJob(house.stores.retention)
    left = "SELECT count(*) FROM sessions WHERE erased_at IS NULL"
    await retention.run()
    assert await house.value(left) == 5
    await retention.run()
    assert await house.value(left) == 0
    await age(house, await house.finish(), 2)
    await retention.run()
    assert await house.value(left) == 1  # it looks again in ten minutes


async def test_what_is_erased_is_not_erased_again(house):
    await keep(house, content=1)
    session_id = await delivered(house)
    await age(house, session_id, 2)
    due = RetentionDue(session_id, house.tenant_id)
    assert await house.stores.retention.erase(due)
    assert not await house.stores.retention.erase(due)
    assert len(await trail(house, "session.erased")) == 1


async def test_what_was_erased_by_its_owner_goes_with_its_rows(house):
    await keep(house, metadata=1)
    session_id = await delivered(house)
    async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
        await unit.erase(make_principal().key_id)
    await age(house, session_id, 2)
    await run(house)
    assert await house.value("SELECT count(*) FROM sessions") == 0


async def test_days_are_changed_one_at_a_time_and_told_in_the_trail(house):
    change = Tenants(house.stores.tenants).change_retention
    tenant = await change(house.tenant_id, RetentionChange(content_days=30))
    assert (tenant.keep_content_days, tenant.keep_metadata_days) == (30, None)
    tenant = await change(house.tenant_id, RetentionChange(rows_days=365))
    assert (tenant.keep_content_days, tenant.keep_metadata_days) == (30, 365)
    with pytest.raises(InvalidRequest):
        await change(house.tenant_id, RetentionChange(content_days=366))
    with pytest.raises(InvalidRequest):
        await change(house.tenant_id, RetentionChange(rows_days=29))
    with pytest.raises(NotFound):
        await change(TenantId("ten_none"), RetentionChange(content_days=1))
    tenant = await change(house.tenant_id, RetentionChange(content_days=None, rows_days=None))
    assert (tenant.keep_content_days, tenant.keep_metadata_days) == (None, None)
    told = [json.loads(entry["facts"]) for entry in await trail(house, "retention.changed")]
    assert told == [
        {"content_days": 30, "metadata_days": None},
        {"content_days": 30, "metadata_days": 365},
        {"content_days": None, "metadata_days": None},
    ]
