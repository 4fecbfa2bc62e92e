"""Recovering what a destination missed, and the EMR's word that it filed something."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from schemas.destinations import DestinationChange
from service.domain.audit import Actor
from service.domain.errors import (
    DeliveryAlreadyFiled,
    DestinationDisabled,
    NotFound,
    SessionErased,
)
from service.domain.ids import DeliveryId, DestinationId, KeyId
from tests.support.makers import LETTER, NOTE, make_answer
from tests.support.schema_versions import add_version, versions_of
from tests.support.store_house import new_tenant

AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


async def die(house, count: int = 50) -> list[str]:
    """Let every delivery that is due end dead; return the ids."""
    died = []
    while jobs := await house.claim_deliveries(limit=count):
        for job in jobs:
            await house.record(job, make_answer(503), status="dead", reason="schedule_used_up: http_503")
            died.append(job.id)
    return died


async def recover(house, destination, since: datetime = AN_HOUR_AGO) -> tuple[int, int]:
    found = await house.deliveries.recover(house.actor, destination.id, since)
    return found.recovered, found.replayed


async def erase(house, session_id) -> None:
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.erase(KeyId("key_1"))


async def test_what_died_since_then_is_due_again_under_its_id_and_the_second_time_nothing_is(house):
    destination = await house.add_destination()
    other = await house.add_destination("https://other.example/")
    for _ in range(3):
        await house.finish(NOTE)
    died = await die(house)
    assert len(died) == 6
    assert await recover(house, destination, datetime.now(UTC) + timedelta(minutes=1)) == (0, 0)
    assert await recover(house, destination) == (3, 0)
    assert await recover(house, destination) == (0, 0)
    jobs = await house.claim_deliveries()
    assert {job.id for job in jobs} <= set(died)
    assert {(job.destination_id, job.scheduled) for job in jobs} == {(destination.id, 0)}
    assert len(jobs) == 3
    assert await house.value("SELECT count(*) FROM deliveries WHERE destination_id = $1", other.id) == 3


async def test_recovering_at_once_from_many_places_makes_nothing_twice(house):
    for _ in range(5):
        await house.finish(NOTE)
    destination = await house.add_destination()
    counts = await asyncio.gather(*(recover(house, destination) for _ in range(5)))
    assert sum(replayed for _, replayed in counts) == 5
    assert await house.value("SELECT count(*) FROM deliveries") == 5


async def test_what_it_wants_and_never_got_is_sent_in_version_order(house):
    session_id = await house.finish(NOTE, LETTER)
    await add_version(house, session_id)
    destination = await house.add_destination(templates=[NOTE])
    assert await recover(house, destination, datetime.now(UTC) + timedelta(minutes=1)) == (0, 0)
    assert await recover(house, destination) == (0, 2)
    (first,) = await house.claim_deliveries()
    assert await versions_of(house, [first]) == [("eka_emr_template", 1)]
    await house.record(first)
    (second,) = await house.claim_deliveries()
    assert await versions_of(house, [second]) == [("eka_emr_template", 2)]
    await house.record(second)
    # Its filter is widened: what was passed over then is sent now.
    change = DestinationChange(templates=[])
    await house.destinations.change(house.actor, destination.id, change)
    assert await recover(house, destination) == (0, 1)
    (letter,) = await house.claim_deliveries()
    assert await versions_of(house, [letter]) == [("letter_template", 1)]


async def test_an_older_version_is_not_recovered_after_a_newer_one(house):
    destination = await house.add_destination()
    session_id = await house.finish(NOTE)
    (first,) = await die(house)
    await add_version(house, session_id)
    (second,) = await house.claim_deliveries()
    await house.record(second)
    assert await recover(house, destination) == (0, 0)
    found = await house.stores.deliveries.one(house.tenant_id, DeliveryId(first))
    assert (found.status, found.reason) == ("dead", "superseded")


async def test_nor_is_one_that_was_never_sent(house):
    session_id = await house.finish(NOTE)
    destination = await house.add_destination()
    await add_version(house, session_id)
    (second,) = await house.claim_deliveries()
    await house.record(second)
    assert await recover(house, destination) == (0, 0)


async def test_an_erased_session_is_neither_recovered_nor_replayed(house):
    destination = await house.add_destination()
    session_id = await house.finish(NOTE)
    await die(house)
    late = await house.add_destination("https://late.example/")
    await erase(house, session_id)
    assert await recover(house, destination) == (0, 0)
    assert await recover(house, late) == (0, 0)


async def test_another_tenant_s_events_stay_there(house):
    await house.finish(NOTE)
    other = await new_tenant(house.stores, "other")
    destination = await house.add_destination()
    with pytest.raises(NotFound):
        await house.deliveries.recover(Actor.operator(other), destination.id, AN_HOUR_AGO)
    with pytest.raises(NotFound):
        await house.deliveries.test(Actor.operator(other), destination.id, AN_HOUR_AGO)
    with pytest.raises(NotFound):
        await house.deliveries.recover(house.actor, DestinationId("dst_none"), AN_HOUR_AGO)


async def test_a_destination_that_is_off_is_neither_tested_nor_recovered(house):
    destination = await house.add_destination()
    change = DestinationChange(enabled=False)
    await house.destinations.change(house.actor, destination.id, change)
    for call in (house.deliveries.recover, house.deliveries.test):
        with pytest.raises(DestinationDisabled):
            await call(house.actor, destination.id, AN_HOUR_AGO)
    assert await house.value("SELECT count(*) FROM deliveries") == 0


async def test_a_ping_goes_past_the_filters_and_is_not_recovered(house):
    destination = await house.add_destination(events=["session.failed"])
    ping = await house.deliveries.test(house.actor, destination.id, datetime.now(UTC))
    assert (ping.type, ping.session_id, ping.status, ping.attempts) == ("ping", None, "pending", [])
    (job,) = await house.claim_deliveries()
    assert (job.id, job.session_id) == (ping.id, None)
    assert f'"destination_id":"{destination.id}"'.encode() in job.body
    await house.record(job, make_answer(404), status="dead", reason="http_404")
    assert await recover(house, destination) == (0, 0)


async def first_job(house):
    await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    return job


@pytest.mark.parametrize("before", ["delivered", "leased", "pending", "dead", "paused"])
async def test_the_emr_s_word_files_a_delivery_whatever_we_knew(house, before):
    job = await first_job(house)
    if before == "paused":
        await house.record(job, make_answer(401), status="paused", reason="unauthorized")
    elif before != "leased":
        wait = 60 if before == "pending" else None
        await house.record(job, status=before, wait_seconds=wait)
    confirm = house.deliveries.confirm
    filed = await confirm(house.actor, job.id, "NOTE-1")
    assert (filed.status, filed.record_id, filed.reason) == ("filed", "NOTE-1", None)
    assert filed.next_attempt_at is None
    assert await confirm(house.actor, job.id, "NOTE-1") == filed
    with pytest.raises(DeliveryAlreadyFiled):
        await confirm(house.actor, job.id, "NOTE-2")
    if before == "leased":
        assert not await house.record(job, make_answer(500), status="pending", wait_seconds=0)
    await house.let_pass("deliveries")
    assert await house.claim_deliveries() == []


async def test_an_answer_s_own_record_id_stands_against_another_word(house):
    job = await first_job(house)
    await house.record(job, status="filed", record_id="NOTE-1")
    same = await house.deliveries.confirm(house.actor, job.id, "NOTE-1")
    assert same.status == "filed"
    with pytest.raises(DeliveryAlreadyFiled):
        await house.deliveries.confirm(house.actor, job.id, "NOTE-2")
    assert await house.value("SELECT confirmed_at FROM deliveries") is None


@pytest.mark.parametrize("before", ["delivered", "filed"])
async def test_what_was_erased_takes_no_record_id_any_more(house, before):
    job = await first_job(house)
    await house.record(job, status=before, record_id="NOTE-1" if before == "filed" else None)
    await erase(house, job.session_id)
    with pytest.raises(SessionErased):
        await house.deliveries.confirm(house.actor, job.id, "NOTE-1")
    assert await house.value("SELECT record_id FROM deliveries") is None


async def test_of_two_words_at_once_one_is_taken(house):
    job = await first_job(house)
    await house.record(job)
    answers = await asyncio.gather(
        *(house.deliveries.confirm(house.actor, job.id, f"NOTE-{n}") for n in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, DeliveryAlreadyFiled) for each in answers) == 5
    with pytest.raises(NotFound):
        await house.deliveries.confirm(
            Actor.operator(await new_tenant(house.stores, "other")), job.id, "NOTE-1"
        )


async def test_an_older_version_on_its_way_is_not_sent_again_when_a_newer_one_was_confirmed(house):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    (older,) = await house.claim_deliveries()
    await add_version(house, session_id)
    newer = await house.value("SELECT id FROM deliveries WHERE version = 2")
    await house.deliveries.confirm(house.actor, DeliveryId(newer), "NOTE-2")
    await house.let_pass("deliveries")
    assert await house.claim_deliveries() == []
    assert await house.value("SELECT reason FROM deliveries WHERE id = $1", older.id) == "superseded"


async def test_a_dead_delivery_of_an_erased_session_says_so_whatever_it_died_of(house):
    await house.add_destination()
    session_id = await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(422), status="dead", reason="http_422")
    await erase(house, session_id)
    with pytest.raises(SessionErased):
        await house.deliveries.retry(house.actor, job.id)


async def test_a_row_without_a_body_does_not_keep_the_others(house):
    await house.add_destination()
    first, second = await house.finish(NOTE), await house.finish(NOTE)
    await house.connection.execute("UPDATE events SET body_sealed = NULL WHERE session_id = $1", first)
    (job,) = await house.claim_deliveries()
    assert job.session_id == second
