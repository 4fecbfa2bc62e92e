from __future__ import annotations

import asyncio

import pytest

from schemas.destinations import DestinationChange, DestinationCreate
from service.domain.audit import Actor
from service.domain.deliveries.models import CallFailure
from service.domain.errors import DeliverySettled, NotFound
from service.domain.ids import TenantId
from tests.support.makers import LETTER, NOTE, make_answer, make_document, make_result
from tests.support.store_house import new_tenant


async def statuses(house) -> list[str]:
    return [
        row["status"] for row in await house.connection.fetch("SELECT status FROM deliveries ORDER BY id")
    ]


async def test_two_claimers_never_get_the_same_delivery(house):
    await house.add_destination()
    for _ in range(20):
        await house.finish(NOTE)
    claimed: list[str] = []
    while len(claimed) < 20:
        claims = await asyncio.gather(*(house.claim_deliveries(limit=4) for _ in range(8)))
        jobs = [job for claim in claims for job in claim]
        assert jobs
        claimed += [job.id for job in jobs]
        assert len(claimed) == len(set(claimed))
        await asyncio.gather(*(house.record(job) for job in jobs))
    assert await house.claim_deliveries() == []


async def test_a_job_carries_all_that_the_call_needs(house):
    destination = await house.add_destination("https://emr.example/hooks?token=1")
    session_id = await house.finish(NOTE)
    (job,) = await house.claim_deliveries(session_id)
    assert (job.session_id, job.destination_id, job.type) == (session_id, destination.id, "document.ready")
    assert (job.url, job.secrets, job.headers) == (
        "https://emr.example/hooks?token=1",
        [destination.secret],
        {},
    )
    assert b'"transcript":"words"' in job.body
    assert session_id.encode() in job.body


async def test_a_lease_that_ran_out_is_due_again_and_its_old_holder_records_nothing(house):
    await house.add_destination()
    await house.finish(NOTE)
    (old,) = await house.claim_deliveries()
    await house.let_pass("deliveries")
    (new,) = await house.claim_deliveries()
    assert new.id == old.id
    assert not await house.record(old, status="dead", reason="http_422")
    assert await house.value("SELECT count(*) FROM attempts") == 0
    assert await house.value("SELECT lease FROM deliveries") == new.lease
    assert await house.record(new, status="filed", record_id="REC-1")
    row = await house.connection.fetchrow(
        "SELECT status, attempts, record_id, lease, next_at FROM deliveries"
    )
    assert tuple(row) == ("filed", 1, "REC-1", None, None)


async def test_a_lost_lease_does_not_turn_the_destination_off_either(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    (old,) = await house.claim_deliveries()
    await house.let_pass("deliveries")
    await house.claim_deliveries()
    assert not await house.record(
        old, make_answer(401), status="paused", reason="unauthorized", pause_destination=True
    )
    assert (await house.stores.destinations.one(house.tenant_id, destination.id)).enabled


async def test_an_attempt_is_recorded_as_it_was_and_the_next_one_is_due_after_the_wait(house):
    await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    outcome = CallFailure(error_class="timeout", duration_ms=1500)
    assert await house.record(
        job,
        outcome,
        status="pending",
        wait_seconds=30,
        spends_schedule=True,
        reason="timeout",
        error_class="timeout",
    )
    assert await house.claim_deliveries() == []
    delivery = await house.stores.deliveries.one(house.tenant_id, job.id)
    assert (delivery.status, delivery.reason) == ("pending", "timeout")
    assert [(each.status_code, each.error_class, each.duration_ms) for each in delivery.attempts] == [
        (None, "timeout", 1500)
    ]
    await house.let_pass("deliveries")
    (again,) = await house.claim_deliveries()
    assert (again.attempts, again.scheduled, again.body) == (1, 1, job.body)


async def test_an_event_goes_to_every_destination_that_wants_it_and_to_no_other_tenant_s(house):
    all_ = await house.add_destination()
    letters = await house.add_destination(templates=[LETTER])
    failures = await house.add_destination(events=["document.failed"])
    other = await new_tenant(house.stores, "other")
    await house.destinations.add(Actor.operator(other), DestinationCreate(url="https://other.example/"))
    await house.finish(NOTE, LETTER)
    rows = await house.connection.fetch("SELECT destination_id, count(*) AS n FROM deliveries GROUP BY 1")
    assert {row["destination_id"]: row["n"] for row in rows} == {all_.id: 2, letters.id: 1}
    assert failures.id not in {row["destination_id"] for row in rows}


async def pause(house, job) -> None:
    assert await house.record(
        job,
        make_answer(401),
        status="paused",
        reason="unauthorized",
        error_class="unauthorized",
        pause_destination=True,
    )


async def test_pausing_a_destination_pauses_what_waits_and_not_what_is_being_sent(house):
    destination = await house.add_destination()
    other = await house.add_destination("https://elsewhere.example/")
    for _ in range(4):
        await house.finish(NOTE)
    mine = [job for job in await house.claim_deliveries() if job.destination_id == destination.id]
    assert len(mine) == 4
    # Two are being sent; two wait for another try.
    for job in mine[2:]:
        await house.record(job, make_answer(500), status="pending", wait_seconds=0, reason="http_500")
    await pause(house, mine[0])
    rows = await house.connection.fetch(
        "SELECT status, reason, count(*) AS n FROM deliveries WHERE destination_id = $1 GROUP BY 1, 2",
        destination.id,
    )
    assert {(row["status"], row["reason"]): row["n"] for row in rows} == {
        ("paused", "unauthorized"): 3,
        ("pending", None): 1,
    }
    assert await house.record(mine[1])  # the one under way was delivered after all
    found = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert (found.enabled, found.paused_reason) == (False, "unauthorized")
    assert (await house.stores.destinations.one(house.tenant_id, other.id)).enabled


async def test_what_happens_while_a_destination_is_off_waits_for_it(house):
    await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await pause(house, job)
    await house.finish(NOTE)
    assert await statuses(house) == ["paused", "paused"]
    assert await house.claim_deliveries() == []
    reasons = await house.connection.fetch("SELECT reason FROM deliveries ORDER BY created_at")
    assert [row["reason"] for row in reasons] == ["unauthorized", "destination_disabled"]


@pytest.mark.parametrize("end", ["retry", "death"])
async def test_a_destination_that_was_turned_off_meanwhile_is_not_called_again(house, end):
    await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    first, second = await house.claim_deliveries()
    await pause(house, first)
    if end == "retry":
        assert await house.record(
            second, make_answer(500), status="pending", wait_seconds=0, reason="http_500"
        )
    await house.let_pass("deliveries")  # or its worker died and the lease ended
    assert await house.claim_deliveries() == []


async def test_two_calls_that_are_refused_at_once_both_end_paused(house):
    await house.add_destination()
    for _ in range(6):
        await house.finish(NOTE)
    jobs = await house.claim_deliveries()
    await asyncio.gather(*(pause(house, job) for job in jobs))
    assert await statuses(house) == ["paused"] * 6


async def test_removing_a_destination_gives_up_what_waits_for_it(house):
    destination = await house.add_destination()
    for _ in range(3):
        await house.finish(NOTE)
    leased, waiting, delivered = await house.claim_deliveries()
    await house.record(delivered)
    await house.record(waiting, make_answer(500), status="pending", wait_seconds=0)
    await house.destinations.remove(house.actor, destination.id)
    rows = await house.connection.fetch("SELECT status, reason FROM deliveries ORDER BY status")
    assert [tuple(row) for row in rows] == [
        ("dead", "destination_removed"),
        ("dead", "destination_removed"),
        ("delivered", None),
    ]
    assert not await house.record(leased, status="pending", wait_seconds=0)
    assert await house.claim_deliveries() == []
    await house.finish(NOTE)
    assert len(await statuses(house)) == 3
    with pytest.raises(NotFound):
        await house.stores.destinations.one(house.tenant_id, destination.id)
    with pytest.raises(NotFound):
        await house.destinations.remove(house.actor, destination.id)
    assert (await house.stores.destinations.page(house.tenant_id, None, 10)).items == []


async def test_a_destination_removed_while_documents_arrive_leaves_nothing_due(house):
    destination = await house.add_destination()
    ended = [await house.end(NOTE) for _ in range(6)]
    jobs = await house.claim_fetches()
    assert len(jobs) == len(ended)
    from_vendor = [house.fetch(job, _done()) for job in jobs]
    await asyncio.gather(
        *from_vendor[:3], house.destinations.remove(house.actor, destination.id), *from_vendor[3:]
    )
    assert set(await statuses(house)) <= {"dead"}
    assert await house.claim_deliveries() == []


def _done():
    return make_result("completed", make_document(NOTE), transcript="words")


async def test_a_dead_delivery_is_due_again_with_the_same_id_and_a_fresh_schedule(house):
    await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(422), status="dead", reason="http_422", spends_schedule=True)
    delivery = await house.deliveries.retry(house.actor, job.id)
    assert (delivery.id, delivery.status, delivery.reason) == (job.id, "pending", None)
    assert (await house.deliveries.retry(house.actor, job.id)).status == "pending"
    (again,) = await house.claim_deliveries()
    assert (again.id, again.scheduled, again.attempts) == (job.id, 0, 1)
    await house.record(again)
    with pytest.raises(DeliverySettled):
        await house.deliveries.retry(house.actor, job.id)


async def test_another_tenant_s_deliveries_and_destinations_are_none(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    other = await new_tenant(house.stores, "other")
    for call in (
        house.stores.deliveries.one(other, job.id),
        house.deliveries.retry(Actor.operator(other), job.id),
        house.stores.destinations.one(other, destination.id),
        house.destinations.remove(Actor.operator(other), destination.id),
        house.destinations.add(
            Actor.operator(TenantId("ten_none")), DestinationCreate(url="https://emr.example")
        ),
    ):
        with pytest.raises(NotFound):
            await call
    page = await house.stores.deliveries.page(
        other, status=None, destination_id=None, session_id=None, after=None, limit=5
    )
    assert page.items == []
    assert (await house.stores.destinations.page(other, None, 10)).items == []


async def test_deliveries_are_listed_by_what_is_asked(house):
    destination = await house.add_destination()
    await house.add_destination("https://elsewhere.example/")
    one, _ = await house.finish(NOTE), await house.finish(NOTE)

    async def count(**wanted) -> int:
        values = {"status": None, "destination_id": None, "session_id": None, "after": None, "limit": 10}
        return len((await house.stores.deliveries.page(house.tenant_id, **(values | wanted))).items)

    assert await count() == 4
    assert await count(session_id=one) == 2
    assert await count(destination_id=destination.id) == 2
    assert await count(destination_id=destination.id, session_id=one, status="pending") == 1
    assert await count(status="dead") == 0


async def test_a_secret_is_shown_once(house):
    destination = await house.add_destination()
    assert destination.secret.startswith("whsec_")
    shown = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert not isinstance(shown.secret, str)


async def test_a_destination_that_is_on_again_gets_what_waited_where_its_schedule_was(house):
    destination = await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    first, second = await house.claim_deliveries()
    await house.record(second, make_answer(500), status="pending", wait_seconds=0, spends_schedule=True)
    await pause(house, first)
    turned = await house.destinations.change(house.actor, destination.id, DestinationChange(enabled=True))
    assert (turned.enabled, turned.paused_reason) == (True, None)
    jobs = {job.id: job for job in await house.claim_deliveries()}
    assert {each: job.scheduled for each, job in jobs.items()} == {first.id: 0, second.id: 1}


async def test_an_operator_s_pause_and_a_change_of_filters_keep_the_rest_as_it_was(house):
    destination = await house.add_destination(templates=[NOTE])
    await house.finish(NOTE)
    change = house.destinations.change
    off = await change(house.actor, destination.id, DestinationChange(enabled=False))
    assert (off.enabled, off.templates) == (False, [NOTE])
    assert await statuses(house) == ["paused"]
    narrowed = await change(house.actor, destination.id, DestinationChange(templates=[LETTER]))
    assert (narrowed.enabled, narrowed.templates, narrowed.url) == (False, [LETTER], destination.url)
    assert await house.claim_deliveries() == []
    with pytest.raises(NotFound):
        await change(
            Actor.operator(await new_tenant(house.stores, "other")),
            destination.id,
            DestinationChange(enabled=True),
        )
