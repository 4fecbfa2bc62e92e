"""The ledger's days that are over: counted once, exact in every interval, and what happens to them later."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from schemas.ledger import Ledger
from service.jobs.monitors.ledger import LedgerMonitor
from tests.support.makers import NOTE
from tests.support.rig import until
from tests.support.store_house import House, new_tenant

MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)


async def finished_at(house: House, *moments: datetime) -> list[str]:
    """Sessions that ended and were delivered at these moments."""
    found = []
    for moment in moments:
        session_id = await house.finish(NOTE)
        await house.connection.execute(
            "UPDATE sessions SET created_at = $2, ended_at = $2, settled_at = $2 WHERE id = $1",
            *(session_id, moment),
        )
        await house.connection.execute(
            "UPDATE documents SET received_at = $2 WHERE session_id = $1", session_id, moment
        )
        found.append(session_id)
    return found


async def fold(house: House) -> int:
    """Fold all that can be; return how many days."""
    days = 0
    while await house.stores.ledger.fold():
        days += 1
    return days


async def test_each_interval_is_counted_as_it_was_before_its_days_were_folded(house):
    tick = timedelta(microseconds=1)
    moments = [
        MIDNIGHT + offset
        for offset in (-tick, timedelta(), tick, timedelta(hours=30), timedelta(days=2), timedelta(days=4))
    ]
    await finished_at(house, *moments)
    await finished_at(house, datetime.now(UTC) - timedelta(hours=1))
    bounds = [None, *moments, *(moment + tick for moment in moments), MIDNIGHT + timedelta(days=1)]
    pairs = [(since, before) for since in bounds for before in bounds]
    plain = [await house.stores.ledger.count(house.tenant_id, *pair) for pair in pairs]
    assert await fold(house) > 4
    assert [await house.stores.ledger.count(house.tenant_id, *pair) for pair in pairs] == plain
    assert [await house.stores.ledger.count(None, *pair) for pair in pairs] == plain
    # What was folded is not looked at again.
    await house.connection.execute("UPDATE ledger_days SET ended = ended + 100")
    assert (await house.stores.ledger.count(house.tenant_id)).ended > 500


async def test_a_day_that_is_hardly_over_is_not_folded(house):
    await finished_at(house, datetime.now(UTC) - timedelta(minutes=59))
    assert await fold(house) == 0


async def test_a_session_that_is_deleted_leaves_its_day(house):
    first, _ = await finished_at(house, MIDNIGHT, MIDNIGHT)
    other = await new_tenant(house.stores, "second")
    await fold(house)
    await house.connection.execute("DELETE FROM sessions WHERE id = $1", first)
    one = Ledger(ended=1, delivered=1, in_flight=0, dead=0, lost=0)
    assert await house.stores.ledger.count(house.tenant_id) == one
    assert await house.stores.ledger.count(None) == one
    assert (await house.stores.ledger.count(other)).ended == 0


async def test_a_day_is_folded_wholly_before_a_deletion_or_after(house, database_url):
    first, _ = await finished_at(house, MIDNIGHT, MIDNIGHT)
    other = await asyncpg.connect(database_url)
    deletion = other.transaction()
    await deletion.start()
    await other.execute("DELETE FROM sessions WHERE id = $1", first)
    folding = asyncio.create_task(house.stores.ledger.fold())

    async def waits() -> bool:
        return bool(
            await house.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )

    await until(waits)
    await deletion.commit()
    await other.close()
    assert await folding
    assert (await house.stores.ledger.count(None)).ended == 1


async def test_what_comes_later_to_a_folded_day_is_seen(house):
    await house.add_destination()
    first, second = await finished_at(house, MIDNIGHT, MIDNIGHT)
    await house.connection.execute(
        "UPDATE deliveries SET status = 'dead', next_at = NULL, reason = 'http_422'"
    )
    await fold(house)
    look = await house.stores.ledger.look(house.tenant_id, None, None, "dead")
    assert sorted(look.shown) == sorted([first, second])
    await house.connection.execute("UPDATE deliveries SET status = 'filed'")
    assert (await house.stores.ledger.count(None)).delivered == 2
    # A document that was released without its event.
    await house.connection.execute(
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status, "
        "released_at) VALUES ('doc_late', $1, $2, 'late', '', 1, 'success', now())",
        *(house.tenant_id, second),
    )
    assert (await house.stores.ledger.look(house.tenant_id, None, None, "lost")).shown == [second]
    # Its own day is folded, too: it stays known, until it is as it should be.
    await house.connection.execute("UPDATE documents SET received_at = $1 WHERE id = 'doc_late'", MIDNIGHT)
    await house.connection.execute("DELETE FROM ledger_days")
    await fold(house)
    assert (await house.stores.ledger.look(house.tenant_id, None, None, "lost")).shown == [second]
    await house.connection.execute(
        "INSERT INTO events (tenant_id, session_id, document_id, type) "
        "VALUES ($1, $2, 'doc_late', 'document.ready')",
        *(house.tenant_id, second),
    )
    assert (await house.stores.ledger.count(None)).lost == 0
    await house.connection.execute("DELETE FROM ledger_days")
    await fold(house)
    assert await house.value("SELECT count(*) FROM ledger_suspects") == 0


async def test_a_document_of_a_later_day_than_its_session_s_stays_looked_at(house):
    (session_id,) = await finished_at(house, MIDNIGHT)
    assert await house.stores.ledger.fold()
    await house.connection.execute(
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status, "
        "received_at, released_at) VALUES ('doc_late', $1, $2, 'late', '', 1, 'success', $3, now())",
        *(house.tenant_id, session_id, MIDNIGHT + timedelta(hours=30)),
    )
    await fold(house)
    assert (await house.stores.ledger.look(house.tenant_id, None, None, "lost")).shown == [session_id]


async def test_days_that_were_folded_by_a_clock_that_ran_ahead_are_not_believed(house):
    await finished_at(house, MIDNIGHT, datetime.now(UTC))
    plain = await house.stores.ledger.count(None)
    await fold(house)
    await house.connection.execute(
        "INSERT INTO ledger_days (tenant_id, day, ended) SELECT tenant, current_date + n, 0 "
        "FROM generate_series(0, 9) n, unnest(ARRAY['', $1]) tenant",
        house.tenant_id,
    )
    assert await house.stores.ledger.count(None) == plain
    assert await house.stores.ledger.count(house.tenant_id) == plain
    assert await fold(house) == 0
    assert await house.value("SELECT max(day) < current_date FROM ledger_days")


async def test_a_session_from_before_the_first_folded_day_is_counted(house):
    await finished_at(house, MIDNIGHT)
    await fold(house)
    await finished_at(house, MIDNIGHT - timedelta(days=9))
    count = house.stores.ledger.count
    assert [(await count(each)).ended for each in (None, house.tenant_id)] == [2, 2]
    assert (await count(None, None, MIDNIGHT)).ended == 1
    assert (await count(None, MIDNIGHT - timedelta(days=1), None)).ended == 1


async def test_a_day_that_is_counted_again_and_was_wrong_is_mended_and_told_of(house):
    _, second = await finished_at(house, MIDNIGHT, MIDNIGHT)
    plain = await house.stores.ledger.count(house.tenant_id)
    days = await fold(house)
    assert [await house.stores.ledger.recount() for _ in range(days)] == [None] * days
    await house.connection.execute("UPDATE ledger_days SET ended = 7 WHERE ended > 0 AND tenant_id <> ''")
    await house.connection.execute("DELETE FROM events WHERE session_id = $1", second)
    with capture_logs() as logs:
        await watch_until(house, "SELECT max(ended) = 2 FROM ledger_days")
    assert {"event": "ledger_day_mended", "log_level": "error", "day": "2026-01-05"} in logs
    found = await house.stores.ledger.look(house.tenant_id, None, None, "lost")
    assert (found.ledger.ended, found.shown) == (plain.ended, [second])


async def test_what_cannot_be_folded_is_counted_all_the_same(house):
    await finished_at(house, MIDNIGHT)
    await house.connection.execute("ALTER TABLE ledger_days ADD CHECK (ended < 0)")
    with capture_logs() as logs:
        await watch_until(house, "SELECT count(*) = 1 FROM leases WHERE name = 'ledger'", shows=1.0)
    assert "ledger_fold_failed" in {each["event"] for each in logs}


async def watch_until(house: House, statement: str, *, shows: float | None = None) -> None:
    """Let a worker count until a statement is true, and it shows so many sessions that were ended."""
    stopping = asyncio.Event()
    watch = LedgerMonitor(leases=house.stores.leases, ledger=house.stores.ledger, interval_seconds=0.05)
    watching = asyncio.create_task(watch.run(stopping))

    async def is_so() -> bool:
        shown = REGISTRY.get_sample_value("ekabridge_ledger_sessions", {"standing": "ended"})
        return bool(await house.value(statement)) and (shows is None or shown == shows)

    await until(is_so)
    stopping.set()
    await watching


async def test_the_worker_folds_before_it_counts(house):
    await finished_at(house, MIDNIGHT)
    await watch_until(house, "SELECT count(*) > 1 FROM ledger_days")
