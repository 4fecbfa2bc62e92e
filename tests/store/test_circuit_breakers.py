"""A destination that keeps failing is left alone, probed, and found to be well again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.destinations import DestinationChange
from service.domain.deliveries.circuit_breaker import (
    DestinationCircuitBreaker,
    DestinationCircuitBreakerRule,
    FailureCount,
)
from service.domain.ids import DestinationId
from tests.support.makers import NOTE, make_answer

RULE = DestinationCircuitBreakerRule(failures=3, seconds=60)


async def fail(house, destination, times: int = 1, retry_after: float = 0.0) -> FailureCount:
    for _ in range(times):
        count = await house.stores.circuit_breakers.count_failure(destination.id, RULE, retry_after)
    return count


async def begin_failing(house, destination, seconds: float = 90) -> FailureCount:
    """Let it fail often enough for long enough."""
    await fail(house, destination, 2)
    await house.connection.execute(
        "UPDATE destinations SET failing_since = now() - make_interval(secs => $1)", seconds
    )
    return await fail(house, destination)


async def pause_of(house) -> float:
    return await house.value("SELECT extract(epoch FROM probe_at - now())::float8 FROM destinations")


async def audited(house) -> list[Any]:
    rows = await house.connection.fetch(
        "SELECT actor, action, object_id FROM audit WHERE actor = 'worker' ORDER BY id"
    )
    return [tuple(row) for row in rows]


async def test_it_opens_after_enough_failures_over_enough_time_and_says_so_once(house):
    destination = await house.add_destination()
    assert not (await fail(house, destination, 9)).is_open  # many at once may be a hiccup
    await house.stores.circuit_breakers.count_contact(destination.id)
    count = await begin_failing(house, destination)
    assert (count.failures, count.is_open, count.has_just_opened) == (3, True, True)
    assert not (await fail(house, destination)).has_just_opened
    assert await audited(house) == [("worker", "destination.failing", destination.id)]
    shown = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert (shown.enabled, shown.paused_reason) == (True, "failing")


async def test_while_it_is_open_nothing_goes_but_one_probe_at_a_time(house):
    destination = await house.add_destination()
    for _ in range(5):
        await house.finish(NOTE)
    healthy = await house.add_destination("https://well.example/")
    await begin_failing(house, destination)
    await house.connection.execute("UPDATE destinations SET probe_at = NULL WHERE id = $1", healthy.id)
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    assert (job.destination_id, job.is_probe) == (healthy.id, False)
    await house.connection.execute("UPDATE destinations SET probe_at = now() WHERE probe_at IS NOT NULL")
    (probe,) = await house.claim_deliveries()
    assert (probe.destination_id, probe.is_probe, probe.failures) == (destination.id, True, 3)
    assert await house.claim_deliveries() == []
    # It gets through: the rest is due at once, as many as one destination gets.
    await house.record(probe)
    assert await house.stores.circuit_breakers.count_contact(destination.id)
    assert len(await house.claim_deliveries()) == 5
    assert (await audited(house))[-1] == ("worker", "destination.answers_again", destination.id)
    shown = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert (shown.enabled, shown.paused_reason) == (True, None)


async def test_a_probe_need_not_be_due_by_its_own_schedule_and_what_waited_is_due_after_it(house):
    destination = await house.add_destination()
    for _ in range(3):
        await house.finish(NOTE)
    for job in await house.claim_deliveries():
        await house.record(job, make_answer(503), status="pending", wait_seconds=80_000, reason="http_503")
    await begin_failing(house, destination)
    await house.connection.execute("UPDATE destinations SET probe_at = now()")
    (probe,) = await house.claim_deliveries()
    await house.record(probe)
    await house.stores.circuit_breakers.count_contact(destination.id)
    assert len(await house.claim_deliveries()) == 2


@pytest.mark.parametrize(
    ("failing", "retry_after", "pause"), [(60, 0, 30), (400, 0, 200), (90_000, 0, 600), (60, 3000, 3000)]
)
async def test_probes_come_at_growing_intervals(house, failing, retry_after, pause):
    destination = await house.add_destination()
    await begin_failing(house, destination, failing)
    await fail(house, destination, retry_after=retry_after)
    assert await pause_of(house) == pytest.approx(pause, abs=2)


async def test_a_later_failure_does_not_shorten_the_pause_that_the_destination_asked_for(house):
    destination = await house.add_destination()
    await begin_failing(house, destination)
    await fail(house, destination, retry_after=3000)
    await fail(house, destination)
    await fail(house, destination, retry_after=10)
    assert await pause_of(house) == pytest.approx(3000, abs=2)


async def test_a_destination_is_not_called_before_its_retry_after_is_over(house):
    """The circuit breaker is closed, and other destinations do not wait."""
    destination = await house.add_destination()
    healthy = await house.add_destination("https://well.example/")
    await fail(house, destination, retry_after=120)
    await fail(house, destination)
    await house.stores.circuit_breakers.count_contact(destination.id)  # of a call that had begun before
    await house.finish(NOTE)
    assert [job.destination_id for job in await house.claim_deliveries()] == [healthy.id]
    shown = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert (shown.enabled, shown.paused_reason) == (True, "retry_after")
    await house.let_pass("destinations", "retry_after_until")
    (job,) = await house.claim_deliveries()
    assert (job.destination_id, job.is_probe) == (destination.id, False)
    shown = await house.stores.destinations.one(house.tenant_id, destination.id)
    assert (shown.enabled, shown.paused_reason) == (True, None)


@pytest.mark.parametrize("call", ["ping", "retry", "recover", "turn_on"])
async def test_a_person_ends_the_wait_that_a_destination_asked_for(house, call):
    destination = await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(500), status="dead", reason="schedule_used_up: http_500")
    await house.finish(NOTE)
    await fail(house, destination, retry_after=120)
    await house.stores.circuit_breakers.count_contact(destination.id)
    assert await house.claim_deliveries() == []
    if call == "ping":
        await house.deliveries.test(house.actor, destination.id, datetime.now(UTC))
    elif call == "retry":
        await house.deliveries.retry(house.actor, job.id)
    elif call == "recover":
        await house.deliveries.recover(house.actor, destination.id, destination.created_at)
    else:
        change = DestinationChange(enabled=True)
        await house.destinations.change(house.actor, destination.id, change)
    assert len(await house.claim_deliveries()) == (1 if call == "turn_on" else 2)


async def test_a_success_ends_the_wait_of_the_breaker_and_not_one_that_the_destination_asked_for(house):
    destination = await house.add_destination()
    for _ in range(3):
        await house.finish(NOTE)
    told, hasty, probe = await house.claim_deliveries()
    failed = {"status": "pending", "reason": "http_503", "spends_schedule": True}
    asked = make_answer(503, retry_after_seconds=3000.0)
    await house.record(told, asked, wait_seconds=4000.0, **failed)
    await house.record(hasty, make_answer(503), wait_seconds=4000.0, **failed)
    await begin_failing(house, destination)
    await house.record(probe)
    await house.stores.circuit_breakers.count_contact(destination.id)
    (job,) = await house.claim_deliveries()
    assert job.id == hasty.id
    wait = "SELECT extract(epoch FROM next_at - now())::float8 FROM deliveries WHERE id = $1"
    assert await house.value(wait, told.id) == pytest.approx(3000, abs=5)


async def test_a_probe_is_not_one_that_was_told_to_wait_while_there_is_another(house):
    destination = await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    told, other = await house.claim_deliveries()
    failed = {"status": "pending", "reason": "http_503", "spends_schedule": True}
    asked = make_answer(503, retry_after_seconds=3000.0)
    await house.record(told, asked, wait_seconds=3000.0, **failed)
    await house.record(other, make_answer(503), wait_seconds=4000.0, **failed)
    await begin_failing(house, destination)
    await house.connection.execute("UPDATE destinations SET probe_at = now()")
    (probe,) = await house.claim_deliveries()
    assert (probe.id, probe.is_probe) == (other.id, True)


async def test_turning_a_destination_on_keeps_the_wait_that_a_delivery_was_told(house):
    destination = await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    told, other = await house.claim_deliveries()
    asked = make_answer(503, retry_after_seconds=3000.0)
    await house.record(told, asked, status="pending", wait_seconds=3000.0, reason="http_503")
    await house.record(
        other, make_answer(401), status="paused", reason="unauthorized", pause_destination=True
    )
    change = DestinationChange(enabled=True)
    await house.destinations.change(house.actor, destination.id, change)
    (job,) = await house.claim_deliveries()
    assert job.id == other.id


async def test_a_probe_whose_worker_died_is_followed_by_another(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    await begin_failing(house, destination)
    await house.connection.execute("UPDATE destinations SET probe_at = now()")
    assert len(await house.claim_deliveries(lease_seconds=10)) == 1
    assert 9 < await pause_of(house) < 12
    await house.let_pass("deliveries")
    await house.let_pass("destinations", "probe_at")
    assert len(await house.claim_deliveries()) == 1


async def test_a_ping_goes_first_and_at_once(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    await begin_failing(house, destination)
    ping = await house.deliveries.test(house.actor, destination.id, datetime.now(UTC))
    (job,) = await house.claim_deliveries()
    assert (job.id, job.is_probe) == (ping.id, False)


@pytest.mark.parametrize("call", ["retry", "recover"])
async def test_somebody_who_says_that_it_is_mended_is_believed_once(house, call):
    destination = await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(500), status="dead", reason="schedule_used_up: http_500")
    await begin_failing(house, destination, 400_000)
    if call == "retry":
        await house.deliveries.retry(house.actor, job.id)
    else:
        await house.deliveries.recover(house.actor, destination.id, destination.created_at)
    (probe,) = await house.claim_deliveries()
    assert (probe.id, probe.is_probe) == (job.id, True)
    await house.record(probe, make_answer(500), status="pending", wait_seconds=5, reason="http_500")
    count = await fail(house, destination)
    assert count.is_open
    assert count.failing_seconds < 60  # its time counts anew


async def test_what_is_older_than_the_whole_schedule_is_given_up_and_the_young_is_not(house):
    destination = await house.add_destination()
    for _ in range(3):
        await house.finish(NOTE)
    await house.connection.execute(
        "UPDATE deliveries SET created_at = now() - interval '4 days' "
        "WHERE id IN (SELECT id FROM deliveries LIMIT 2)"
    )
    assert await house.stores.circuit_breakers.give_up(destination.id, 302_400, "connect") == 2
    rows = await house.connection.fetch("SELECT status, reason FROM deliveries ORDER BY status")
    assert [tuple(row) for row in rows] == [
        *[("dead", "schedule_used_up: connect")] * 2,
        ("pending", None),
    ]


async def test_one_that_keeps_failing_gets_one_call_at_a_time(house):
    destination = await house.add_destination()
    for _ in range(4):
        await house.finish(NOTE)
    await fail(house, destination, 10)
    assert len(await house.claim_deliveries()) == 1
    assert await house.claim_deliveries() == []


async def test_turning_it_on_forgets_failures_of_long_ago(house):
    """Else the first failure after days off would end everything that waited."""
    destination = await house.add_destination()
    await fail(house, destination, 2)
    await house.connection.execute("UPDATE destinations SET failing_since = now() - interval '5 days'")
    await house.destinations.change(
        house.actor, DestinationId(destination.id), DestinationChange(enabled=True)
    )
    count = await fail(house, destination)
    assert (count.failures, count.is_open) == (1, False)
    assert count.failing_seconds < 60


async def test_nothing_is_given_up_at_the_moment_it_opens(house):
    destination = await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(503), status="pending", wait_seconds=60.0, reason="http_503")
    await house.connection.execute("UPDATE deliveries SET created_at = now() - interval '5 days'")
    await fail(house, destination, 2)
    await house.connection.execute("UPDATE destinations SET failing_since = now() - interval '5 days'")
    breaker = DestinationCircuitBreaker(
        store=house.stores.circuit_breakers, schedule_total_seconds=86_400.0, rule=RULE
    )
    await breaker.failed(job, "http_503", None)
    assert await house.value("SELECT status FROM deliveries") == "pending"
    await breaker.failed(job, "http_503", None)
    assert await house.value("SELECT status FROM deliveries") == "dead"


async def hang(house, destination, times: int = 1) -> None:
    for _ in range(times):
        await house.stores.circuit_breakers.count_failure(
            destination.id, DestinationCircuitBreakerRule(), 0.0, took_long=True
        )


async def test_a_destination_that_hung_gets_one_call_at_a_time_after_all_others_until_it_answers(house):
    silent = await house.add_destination()
    for _ in range(3):
        await house.finish(NOTE)
    healthy = await house.add_destination("https://well.example/")
    await house.finish(NOTE)
    await hang(house, silent, 2)
    (first,) = await house.claim_deliveries(limit=1)
    assert (first.destination_id, first.hangs) == (healthy.id, 0)
    (second,) = await house.claim_deliveries()
    assert (second.destination_id, second.hangs, second.is_probe) == (silent.id, 2, False)
    assert await house.claim_deliveries() == []
    await house.record(second)
    await house.stores.circuit_breakers.count_contact(silent.id)
    assert [job.hangs for job in await house.claim_deliveries()] == [0, 0, 0]


async def test_what_fails_at_once_is_not_silent(house):
    destination = await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    await fail(house, destination)
    assert [job.hangs for job in await house.claim_deliveries()] == [0, 0]


async def test_tenants_and_silent_destinations_are_passed_over_when_they_have_their_share(house):
    silent = await house.add_destination()
    healthy = await house.add_destination("https://well.example/")
    await hang(house, silent)
    await house.finish(NOTE)

    async def claimed(*passed_over: str) -> set[str]:
        jobs = await house.stores.deliveries.claim_deliveries(
            None, 50, 60, passed_over, max_body_bytes=2**30, takes_any=True
        )
        for job in jobs:
            await house.stores.deliveries.release_delivery(job)
        return {job.destination_id for job in jobs}

    assert await claimed("ten_of_others", "silent:ten_of_others") == {silent.id, healthy.id}
    assert await claimed(house.tenant_id) == set()
    assert await claimed("silent") == {healthy.id}
    assert await claimed(f"silent:{house.tenant_id}") == {healthy.id}


async def test_a_destination_without_a_call_on_its_way_comes_first(house):
    busy = await house.add_destination()
    for _ in range(4):
        await house.finish(NOTE)
    await house.claim_deliveries(limit=2)
    idle = await house.add_destination("https://idle.example/")
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries(limit=1)
    assert job.destination_id == idle.id
    (job,) = await house.claim_deliveries(limit=1)
    assert job.destination_id == busy.id


@pytest.mark.parametrize("call", ["ping", "turn_on"])
async def test_a_person_ends_what_a_destination_s_hanging_costs_it(house, call):
    destination = await house.add_destination()
    for _ in range(2):
        await house.finish(NOTE)
    await hang(house, destination)
    if call == "ping":
        await house.deliveries.test(house.actor, destination.id, datetime.now(UTC))
    else:
        change = DestinationChange(enabled=True)
        await house.destinations.change(house.actor, destination.id, change)
    assert {job.hangs for job in await house.claim_deliveries()} == {0}
