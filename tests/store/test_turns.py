"""Whose turn it is: so many at once for each destination, in version order, no faster than its rate."""

from __future__ import annotations

import asyncio

import pytest

from schemas.destinations import DestinationChange
from service.domain.errors import DeliverySuperseded
from service.domain.results.events import release
from tests.support.makers import LETTER, NOTE, TurnedClock, make_answer, make_document, make_result
from tests.support.schema_versions import add_version, of_versions, versions_of
from tests.support.store_house import House


async def fill(house: House, count: int) -> None:
    for _ in range(count):
        await house.finish(NOTE)


async def test_a_destination_gets_eight_calls_at_once_over_all_workers(house):
    await house.add_destination()
    # Workers that are told of different sessions look at different rows, at the same time.
    sessions = [await house.finish(NOTE) for _ in range(20)]
    claims = await asyncio.gather(*(house.claim_deliveries(session_id) for session_id in sessions))
    jobs = [job for claim in claims for job in claim]
    assert len(jobs) == len({job.id for job in jobs}) == 8
    await house.record(jobs[0])
    await house.record(jobs[1], make_answer(500), status="pending", wait_seconds=60, reason="http_500")
    assert len(await house.claim_deliveries()) == 2


async def test_places_of_a_worker_that_died_are_free_again_when_its_leases_end(house):
    await house.add_destination()
    await fill(house, 10)
    assert len(await house.claim_deliveries()) == 8
    assert await house.claim_deliveries() == []
    await house.connection.execute("UPDATE deliveries SET next_at = now() WHERE lease IS NOT NULL")
    assert len(await house.claim_deliveries()) == 8


async def test_each_destination_has_its_turn_before_one_has_its_second(house):
    many = await house.add_destination()
    await fill(house, 8)
    few = await house.add_destination("https://few.example/")
    await fill(house, 2)
    jobs = await house.claim_deliveries(limit=4)
    assert sorted(job.destination_id for job in jobs) == sorted([many.id, few.id] * 2)


async def test_a_newer_version_waits_for_the_older_one_and_other_documents_do_not(house):
    await house.add_destination()
    session_id = await house.finish(NOTE, LETTER)
    await add_version(house, session_id)
    await add_version(house, session_id)
    jobs = await house.claim_deliveries()
    assert await versions_of(house, jobs) == [("eka_emr_template", 1), ("letter_template", 1)]
    first = (await of_versions(house, jobs, NOTE))[1]
    # It is tried again later: the newer one must not overtake it meanwhile.
    await house.record(first, make_answer(500), status="pending", wait_seconds=60, reason="http_500")
    assert await house.claim_deliveries() == []
    await house.connection.execute("UPDATE deliveries SET next_at = now() WHERE id = $1", first.id)
    (again,) = await house.claim_deliveries()
    assert again.id == first.id
    await house.record(again)
    (second,) = await house.claim_deliveries()
    assert await versions_of(house, [second]) == [("eka_emr_template", 2)]


@pytest.mark.parametrize("end", ["dead", "delivered"])
async def test_a_version_that_is_over_holds_up_nothing(house, end):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    await add_version(house, session_id)
    (first,) = await house.claim_deliveries()
    await house.record(first, make_answer(422), status=end, reason="http_422" if end == "dead" else None)
    (second,) = await house.claim_deliveries()
    assert await versions_of(house, [second]) == [("eka_emr_template", 2)]


async def test_each_destination_has_an_order_of_its_own(house):
    one = await house.add_destination()
    session_id = await house.finish(NOTE)
    other = await house.add_destination("https://other.example/")
    await add_version(house, session_id)
    jobs = await house.claim_deliveries()
    assert {job.destination_id for job in jobs} == {one.id, other.id}
    assert await versions_of(house, jobs) == [("eka_emr_template", 1), ("eka_emr_template", 2)]


async def test_an_older_version_is_not_sent_after_a_newer_one(house):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    await add_version(house, session_id)
    (first,) = await house.claim_deliveries()
    await house.record(first, make_answer(422), status="dead", reason="http_422")
    (second,) = await house.claim_deliveries()
    # Put back into the queue while the newer one is on its way: it waits, and then it is over.
    assert (await house.deliveries.retry(house.actor, first.id)).status == "pending"
    assert await house.claim_deliveries() == []
    await house.record(second)
    found = await house.stores.deliveries.one(house.tenant_id, first.id)
    assert (found.status, found.reason) == ("dead", "superseded")
    with pytest.raises(DeliverySuperseded):
        await house.deliveries.retry(house.actor, first.id)
    assert await house.claim_deliveries() == []


async def test_an_older_version_on_its_way_when_a_newer_one_is_confirmed_is_not_tried_again(house):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    await add_version(house, session_id)
    (first,) = await house.claim_deliveries()
    second = await house.value("SELECT id FROM deliveries WHERE version = 2")
    await house.deliveries.confirm(house.actor, second, "NOTE-2")
    await house.record(first, make_answer(500), status="pending", wait_seconds=0, reason="http_500")
    found = await house.stores.deliveries.one(house.tenant_id, first.id)
    assert (found.status, found.reason) == ("dead", "superseded")


async def test_a_rate_holds_over_all_workers(house):
    made = await house.add_destination(rate_per_second=2)
    await fill(house, 4)
    claims = await asyncio.gather(*(house.claim_deliveries() for _ in range(4)))
    assert sum(len(claim) for claim in claims) == 1
    wait = await house.stores.deliveries.next_slot_seconds()
    assert wait is not None
    assert 0.3 < wait <= 0.5
    # A long silence earns no burst.
    await house.connection.execute("UPDATE destinations SET next_slot_at = now() - interval '1 hour'")
    assert len(await house.claim_deliveries()) == 1
    change = DestinationChange(rate_per_second=None)
    await house.destinations.change(house.actor, made.id, change)
    assert len(await house.claim_deliveries()) == 2
    assert await house.stores.deliveries.next_slot_seconds() is None


async def test_a_high_rate_gives_as_many_as_fit_into_the_time_between_two_looks(house):
    await house.add_destination(rate_per_second=100)
    await fill(house, 9)
    assert len(await house.claim_deliveries()) == 1
    await house.connection.execute(
        "UPDATE destinations SET next_slot_at = now() - interval '30 milliseconds'"
    )
    assert 4 <= len(await house.claim_deliveries()) <= 6


async def test_two_documents_of_one_template_are_two_lineages(house: House) -> None:
    """A new version of one neither waits for the other nor takes its place."""
    await house.add_destination()
    session_id = await house.end(NOTE)
    (fetch,) = await house.claim_fetches(session_id)
    pair = [make_document(NOTE, upstream_id="a"), make_document(NOTE, upstream_id="b")]
    await house.fetch(fetch, make_result("completed", *pair, transcript="words"))
    first, second = sorted(await house.claim_deliveries(session_id), key=lambda job: job.id)
    upstream = (
        "SELECT o.upstream_id FROM deliveries d JOIN documents o ON o.id = d.document_id WHERE d.id = $1"
    )
    by_id = {await house.value(upstream, job.id): job for job in (first, second)}
    await house.record(by_id["a"])
    await house.record(by_id["b"], make_answer(503), status="pending", wait_seconds=3600.0)
    async with house.stores.results.settling(session_id) as unit:
        assert unit is not None
        newer = make_document(NOTE, upstream_id="a", data={"note": "second"})
        await unit.add_document(newer, None, listed=frozenset({"a", "b"}))
        assert await release(unit, TurnedClock())
    (job,) = await house.claim_deliveries(session_id)
    assert await house.value(upstream, job.id) == "a"
    await house.record(job)
    status = "SELECT status, reason FROM deliveries WHERE id = $1"
    assert (await house.connection.fetchrow(status, by_id["b"].id))["status"] == "pending"
    await house.connection.execute(
        "UPDATE deliveries SET status = 'dead', reason = 'http_422', next_at = NULL, settled_at = now() "
        "WHERE id = $1",
        by_id["b"].id,
    )
    retried = await house.deliveries.retry(house.actor, by_id["b"].id)
    assert retried.status == "pending"
