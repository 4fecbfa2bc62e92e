"""A worker claims no more large bodies than its budget holds; small ones do not wait for them."""

from __future__ import annotations

import asyncio
from typing import Any

from service.concurrency.memory_budget import DELIVERIES_BYTES
from service.domain.body_budget import BodyBudget
from service.domain.deliveries.attempts import DeliveryForwarder
from service.domain.deliveries.circuit_breaker import DestinationCircuitBreaker
from service.domain.deliveries.models import Answer, DeliveryJob
from service.jobs.job_pool import JobPool
from tests.support.makers import NOTE, TurnedClock, make_answer, make_document, make_result
from tests.support.rig import until
from tests.support.store_house import House, new_tenant

LARGE = 200_000
MEBIBYTE = 1024 * 1024


async def finish(house: House, size: int) -> Any:
    """A session with one note of so many bytes."""
    session_id = await house.end()
    (job,) = await house.claim_fetches(session_id)
    await house.fetch(job, make_result("completed", make_document(NOTE, data="a" * size)))
    return session_id


async def add_destinations(house: House, count: int) -> None:
    for number in range(count):
        await house.add_destination(f"https://emr{number}.example/")


class HeldSender:
    """A Sender whose calls go on until they may end; keeps how many bytes were in hand at most."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.sent = 0
        self.held_bytes = self.peak_bytes = 0

    async def send(self, job: DeliveryJob, may_leave: Any) -> Answer:
        self.held_bytes += len(job.body)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        await self.may_end.wait()
        self.held_bytes -= len(job.body)
        self.sent += 1
        return make_answer(200)


async def test_two_hundred_documents_of_eight_mebibytes_stay_within_the_budget(house: House) -> None:
    """A claim opened as many bodies as it found places: 256 of them would take 2 GiB."""
    other = House(
        stores=house.stores, connection=house.connection, tenant_id=await new_tenant(house.stores, "other")
    )
    for each in (house, other):
        await add_destinations(each, 20)
        for _ in range(5):
            await finish(each, 8 * MEBIBYTE)
    sender, bodies = HeldSender(), BodyBudget()
    forwarding = DeliveryForwarder(
        store=house.stores.deliveries,
        sender=sender,
        clock=TurnedClock(),
        schedule_seconds=(60,),
        timeout_seconds=60,
        bodies=bodies,
        breaker=DestinationCircuitBreaker(store=house.stores.circuit_breakers, schedule_total_seconds=60),
    )
    lane = JobPool[DeliveryJob](
        "deliveries",
        size=256,
        claim=forwarding.claim,
        run=forwarding.forward,
        next_slot_seconds=forwarding.next_slot_seconds,
    )
    for _ in range(4):
        await lane.wake(None)

    async def are_held() -> bool:
        return sender.held_bytes >= 32 * MEBIBYTE

    async def are_all_sent() -> bool:
        return sender.sent == 200

    await until(are_held)
    sender.may_end.set()
    await until(are_all_sent, 60)
    await lane.drain(5)
    assert 32 * MEBIBYTE <= sender.peak_bytes <= DELIVERIES_BYTES // 2  # each is there twice
    assert bodies.held_bytes == 0


async def test_small_bodies_pass_large_ones_that_find_no_room(house: House) -> None:
    await house.add_destination()
    large = [await finish(house, LARGE) for _ in range(3)]
    small = await finish(house, 10)
    jobs = await house.claim_deliveries(max_body_bytes=2 * LARGE - 1, takes_any=False)
    assert {job.session_id for job in jobs} == {large[0], small}
    assert await house.claim_deliveries(max_body_bytes=0, takes_any=False) == []
    jobs = await house.claim_deliveries(max_body_bytes=3 * LARGE, takes_any=False)
    assert {job.session_id for job in jobs} == set(large[1:])


async def test_a_large_body_is_not_passed_by_smaller_large_ones(house: House) -> None:
    await house.add_destination()
    sessions = [await finish(house, size) for size in (3 * LARGE, LARGE)]
    assert await house.claim_deliveries(max_body_bytes=2 * LARGE, takes_any=False) == []
    # One that is larger than any budget goes when nothing else is held, and then alone.
    (job,) = await house.claim_deliveries(max_body_bytes=2 * LARGE, takes_any=True)
    assert job.session_id == sessions[0]


async def test_a_tenant_with_half_of_the_budget_leaves_the_rest_to_others(house: House) -> None:
    other = House(
        stores=house.stores, connection=house.connection, tenant_id=await new_tenant(house.stores, "other")
    )
    bodies = BodyBudget(8 * LARGE)
    for each in (house, other):
        await each.add_destination()
        for _ in range(3):
            await finish(each, LARGE - 1000)
        await finish(each, 10)
    (first, *_) = await house.claim_deliveries(passed_over=(f"large:{other.tenant_id}",), limit=1)
    for _ in range(2):
        bodies.acquire(first)
    assert bodies.holders_at_quota() == []
    bodies.acquire(first)
    bodies.acquire(first)
    assert bodies.holders_at_quota() == [f"large:{house.tenant_id}"]
    jobs = await house.claim_deliveries(passed_over=tuple(bodies.holders_at_quota()))
    mine = [job for job in jobs if job.tenant_id == house.tenant_id]
    assert [len(job.body) < LARGE // 2 for job in mine] == [True]
    assert len(jobs) == 5
