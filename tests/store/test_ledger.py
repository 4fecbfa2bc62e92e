"""The ledger: each class, each way to be lost, and the equation over whatever the rows are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas.ledger import Ledger
from service.domain.ids import SessionId, TemplateId
from service.domain.results.fetching import ResultFetcher
from service.domain.sessions.models import VendorEnd
from tests.support.fakes import ScriptedVendor
from tests.support.makers import NOTE, TurnedClock, make_document, make_lease, make_principal, make_result
from tests.support.store_house import House, new_tenant

SOAP = TemplateId("soap")


async def ledger(house: House) -> tuple[int, int, int, int, int]:
    """Ended, delivered, in flight, dead, lost."""
    found = await house.stores.ledger.count(house.tenant_id)
    assert found.ended == found.delivered + found.in_flight + found.dead
    assert found.lost <= found.in_flight
    return found.ended, found.delivered, found.in_flight, found.dead, found.lost


DELIVERED = (1, 1, 0, 0, 0)
IN_FLIGHT = (1, 0, 1, 0, 0)
DEAD = (1, 0, 0, 1, 0)
LOST = (1, 0, 1, 0, 1)
NOTHING = (0, 0, 0, 0, 0)


async def settle(house: House, status: str = "delivered", **fields: Any) -> None:
    for job in await house.claim_deliveries():
        assert await house.record(job, status=status, **fields)


async def expire(house: House) -> SessionId:
    """A session that nobody ended."""
    session_id = await house.create()
    await house.connection.execute("UPDATE sessions SET expires_at = now() - interval '1 second'")
    fetching = ResultFetcher(store=house.stores.results, vendor=ScriptedVendor(), clock=TurnedClock())
    await fetching.expire(session_id)
    return session_id


async def change(house: House, statement: str) -> None:
    """What no code of ours does: so that the ledger has something to find."""
    assert await house.connection.execute(statement) not in {"UPDATE 0", "DELETE 0"}


async def test_what_was_not_ended_is_not_counted(house):
    session_id = await house.create()
    assert await ledger(house) == NOTHING
    await house.store_chunk(session_id, 0)
    assert await ledger(house) == NOTHING


async def test_from_its_end_to_its_documents_acceptance_it_is_in_flight(house):
    await house.add_destination()
    session_id = await house.create(templates=[NOTE, SOAP])
    lease = await house.begin_end(session_id)
    assert await ledger(house) == IN_FLIGHT  # the end call is owed
    await house.record_end(session_id, lease, VendorEnd(files_received=1))
    assert await ledger(house) == IN_FLIGHT  # its results are
    first, second = await house.claim_fetches(session_id)
    assert await ledger(house) == IN_FLIGHT  # they are asked for
    for job in (first, second):
        made = make_document(job.template_id)
        await house.fetch(job, make_result("completed", made, transcript="words"))
        assert await ledger(house) == IN_FLIGHT
    one, other = await house.claim_deliveries()
    await house.record(one, status="delivered")
    assert await ledger(house) == IN_FLIGHT
    await house.record(other, status="pending", wait_seconds=3600)
    assert await ledger(house) == IN_FLIGHT
    await house.let_pass("deliveries")
    await settle(house, "filed")
    assert await ledger(house) == DELIVERED


async def test_what_no_destination_wants_is_delivered(house):
    await house.add_destination(events=["session.failed"])
    await house.finish(NOTE)
    assert await ledger(house) == DELIVERED


async def test_it_is_delivered_when_every_destination_has_it_and_not_before(house):
    await house.add_destination()
    await house.add_destination("https://other.example/hooks")
    await house.finish(NOTE)
    first, second = await house.claim_deliveries()
    await house.record(first)
    assert await ledger(house) == IN_FLIGHT
    await house.record(second)
    assert await ledger(house) == DELIVERED


async def test_one_dead_delivery_makes_it_dead_until_it_is_sent_again(house):
    await house.add_destination()
    await house.add_destination("https://other.example/hooks")
    await house.finish(NOTE)
    first, second = await house.claim_deliveries()
    await house.record(first, status="dead", reason="http_422")
    assert await ledger(house) == DEAD  # though the other one still pends
    await house.record(second)
    assert await ledger(house) == DEAD
    await change(
        house,
        "UPDATE deliveries SET status = 'pending', next_at = now(), settled_at = NULL, reason = NULL "
        "WHERE status = 'dead'",
    )
    assert await ledger(house) == IN_FLIGHT
    await settle(house)
    assert await ledger(house) == DELIVERED


async def test_what_is_given_up_with_its_destination_is_dead(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    await house.destinations.remove(house.actor, destination.id)
    assert await ledger(house) == DEAD


async def test_what_is_paused_waits_for_a_person_and_is_not_lost(house):
    await house.add_destination()
    await house.finish(NOTE)
    await settle(house, "paused", reason="unauthorized", pause_destination=True)
    assert await house.value("SELECT status FROM deliveries") == "paused"
    assert await ledger(house) == IN_FLIGHT


async def test_what_expired_unended_counts_by_the_moment_of_its_expiry(house):
    await house.add_destination()
    await expire(house)
    assert await ledger(house) == IN_FLIGHT
    await settle(house)
    assert await ledger(house) == DELIVERED
    now = datetime.now(UTC)
    count = house.stores.ledger.count
    assert (await count(house.tenant_id, now - timedelta(minutes=1), now)).ended == 1
    assert (await count(house.tenant_id, now, None)).ended == 0


async def test_a_session_cancelled_after_its_end_has_its_ending(house):
    session_id = await house.end(NOTE)
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.cancel(make_lease(), 60)
    assert await house.value("SELECT owed FROM sessions") == "cancel"
    assert await ledger(house) == DELIVERED


async def test_a_session_cancelled_with_a_document_that_waited_has_its_ending(house):
    session_id = await house.end(NOTE)
    await house.connection.execute(
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status) "
        "VALUES ('doc_x', $1, $2, 'soap', 'u', 1, 'success')",
        house.tenant_id,
        session_id,
    )
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.cancel(make_lease(), 60)
    assert await ledger(house) == DELIVERED


@pytest.mark.parametrize("stage", ["ended", "finished", "delivered"])
async def test_an_erased_session_is_closed_and_stays_counted(house, stage):
    await house.add_destination()
    session_id = await (house.end(NOTE) if stage == "ended" else house.finish(NOTE))
    if stage == "delivered":
        await settle(house)
    principal = make_principal()
    async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
        await unit.erase(principal.key_id)
    assert await ledger(house) == DELIVERED


async def test_an_erased_session_of_which_a_delivery_had_died_stays_dead(house):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    await settle(house, "dead", reason="http_422")
    async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
        await unit.erase(make_principal().key_id)
    assert await ledger(house) == DEAD


WAYS_TO_BE_LOST = {
    "ended, and no result is owed": ("end", "DELETE FROM fetches"),
    "ended, and every result was settled without an ending": (
        "end",
        "UPDATE fetches SET status = 'settled', next_at = NULL, settled_at = now()",
    ),
    "a document that nobody will release": ("finish", "UPDATE documents SET released_at = NULL"),
    "a document that was released without its event": ("finish", "DELETE FROM events"),
    "a bad ending of which nobody was told": ("expire", "DELETE FROM events"),
    "a delivery to a destination that is gone": (
        "finish",
        "UPDATE destinations SET removed_at = now(), enabled = false",
    ),
    "a paused delivery at a destination that is on": (
        "finish",
        "UPDATE deliveries SET status = 'paused', next_at = NULL",
    ),
    "a paused delivery at a destination that is gone": (
        "finish",
        "WITH gone AS (UPDATE destinations SET removed_at = now(), enabled = false) \
         UPDATE deliveries SET status = 'paused', next_at = NULL",
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_BE_LOST)
async def test_each_way_to_be_lost_is_found(house, way):
    state, damage = WAYS_TO_BE_LOST[way]
    await house.add_destination()
    if state == "expire":
        session_id = await expire(house)
    else:
        session_id = await (house.end(NOTE) if state == "end" else house.finish(NOTE))
    assert await ledger(house) == IN_FLIGHT
    await change(house, damage)
    assert await ledger(house) == LOST
    look = await house.stores.ledger.look(house.tenant_id, None, None, "lost")
    assert look.shown == [session_id]


async def test_a_document_that_waits_for_a_call_that_is_due_is_not_lost(house):
    await house.finish(NOTE)
    await change(house, "UPDATE documents SET released_at = NULL")
    await change(house, "UPDATE fetches SET status = 'pending', next_at = now(), asked = 'asked'")
    assert await ledger(house) == IN_FLIGHT


async def test_the_interval_is_half_open_on_the_moment_of_ending(house):
    for _ in range(3):
        await house.finish(NOTE)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    hour = timedelta(hours=1)
    await house.connection.execute(
        "UPDATE sessions s SET ended_at = $1::timestamptz + n.number * interval '1 hour' "
        "FROM (SELECT id, row_number() OVER (ORDER BY created_at) - 1 AS number FROM sessions) n "
        "WHERE n.id = s.id",
        start,
    )
    count = house.stores.ledger.count
    assert (await count(house.tenant_id, start, start + 3 * hour)).ended == 3
    assert (await count(house.tenant_id, start, start + 2 * hour)).ended == 2
    assert (await count(house.tenant_id, start + hour, start + 2 * hour)).ended == 1
    assert (await count(house.tenant_id, start + hour, start + hour)).ended == 0
    assert (await count(house.tenant_id, start + hour, None)).ended == 2


async def test_tenants_are_counted_apart_and_together(house):
    await house.finish(NOTE)
    stranger = await new_tenant(house.stores, "second")
    assert (await house.stores.ledger.count(stranger)).ended == 0
    home, house.tenant_id = house.tenant_id, stranger
    await house.end(NOTE)
    assert await ledger(house) == IN_FLIGHT
    house.tenant_id = home
    assert await ledger(house) == DELIVERED
    assert (await house.stores.ledger.count(None)) == Ledger(
        ended=2, delivered=1, in_flight=1, dead=0, lost=0
    )


async def test_it_names_the_sessions_of_a_class_oldest_first(house):
    await house.add_destination()
    dead = [await house.finish(NOTE) for _ in range(2)]
    await settle(house, "dead", reason="http_422")
    flying = await house.end(NOTE)
    look = house.stores.ledger.look
    assert (await look(house.tenant_id, None, None, "dead")).shown == dead
    assert (await look(house.tenant_id, None, None, "in_flight")).shown == [flying]
    assert (await look(house.tenant_id, None, None, "lost")).shown == []
    assert (await look(house.tenant_id, None, None, None)).shown == []
