"""The memory of large bodies: who waits longest gets it first, and all of it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.api.middleware.admission_control import Permit
from service.api.middleware.disk_budget import DiskBudget
from service.api.middleware.request_class import RequestClass
from service.concurrency.memory_budget import MemoryBudget

PATIENT = 3600.0


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def asking(memory: MemoryBudget, *sizes: int) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(memory.acquire(size)) for size in sizes]


def granted(tasks: list[asyncio.Task[bool]]) -> list[Any]:
    return [task.result() if task.done() else None for task in tasks]


async def test_what_is_there_is_granted_and_what_can_never_be_is_refused_at_once() -> None:
    memory = MemoryBudget(100, patience_seconds=PATIENT)
    assert not await memory.acquire(101)
    assert await memory.acquire(100)
    assert not await memory.acquire(101)
    memory.release(100)
    assert memory.used_bytes == 0


async def test_who_waits_is_served_in_the_order_of_coming() -> None:
    memory = MemoryBudget(100, patience_seconds=PATIENT)
    assert await memory.acquire(90)
    waiting = asking(memory, 60, 10, 30)
    await turns()
    # Ten are there; but a large body must not wait for ever behind small ones.
    assert granted(waiting) == [None, None, None]
    assert granted(asking(memory, 1)) == [None]
    memory.release(5)
    await turns()
    assert granted(waiting) == [None, None, None]
    memory.release(45)
    await turns()
    assert granted(waiting) == [True, None, None]
    memory.release(40)
    await turns()
    assert granted(waiting) == [True, True, True]
    assert memory.used_bytes <= 100


async def test_who_waits_too_long_goes_without_and_lets_the_others_pass() -> None:
    memory = MemoryBudget(100, patience_seconds=0.02)
    assert await memory.acquire(90)
    large = asyncio.create_task(memory.acquire(60))
    await turns()
    memory.patience_seconds = PATIENT
    small = asyncio.create_task(memory.acquire(10))
    assert not await large
    async with asyncio.timeout(5):
        assert await small
    memory.release(90)
    memory.release(10)
    assert memory.used_bytes == 0
    assert memory.waiting == 0


async def test_who_goes_away_while_waiting_takes_nothing_and_lets_the_others_pass() -> None:
    memory = MemoryBudget(100, patience_seconds=PATIENT)
    assert await memory.acquire(90)
    gone, small = asking(memory, 60, 10)
    await turns()
    gone.cancel()
    await asyncio.wait({gone})
    assert gone.cancelled()
    async with asyncio.timeout(5):
        assert await small
    assert memory.used_bytes == 100


async def test_who_goes_away_just_when_it_is_granted_gives_it_back() -> None:
    memory = MemoryBudget(100, patience_seconds=PATIENT)
    assert await memory.acquire(100)
    gone, next_ = asking(memory, 100, 70)
    await turns()
    memory.release(100)
    assert memory.used_bytes == 100  # granted, and it does not know yet
    gone.cancel()
    await asyncio.wait({gone})
    assert gone.cancelled()
    async with asyncio.timeout(5):
        assert await next_
    assert memory.used_bytes == 70
    memory.release(70)
    assert memory.used_bytes == 0


@pytest.mark.parametrize("is_granted", [True, False])
async def test_two_that_go_away_at_once_leave_no_count_behind(*, is_granted: bool) -> None:
    memory = MemoryBudget(100, patience_seconds=PATIENT)
    assert await memory.acquire(100)
    waiting = asking(memory, 50, 50, 50)
    await turns()
    if is_granted:
        memory.release(100)
    for task in waiting:
        task.cancel()
    if not is_granted:
        memory.release(100)
    await asyncio.wait(waiting)
    assert memory.used_bytes == 0
    assert memory.waiting == 0


async def test_a_permit_gives_back_all_that_it_was_granted() -> None:
    memory, disk = MemoryBudget(100, patience_seconds=0.0, cooldown_seconds=0.0), DiskBudget(1000)
    first = Permit(RequestClass("uploads", 4, max_per_holder=3), disk, memory)
    second = Permit(RequestClass("uploads", 4, max_per_holder=3), disk, memory)
    assert await first.reserve_memory(60)
    assert await first.reserve_memory(30)
    assert not await second.reserve_memory(60)
    second.release()
    assert memory.used_bytes == 90
    waiting = asyncio.create_task(second.reserve_memory(100))
    memory.patience_seconds = PATIENT
    await turns()
    first.release()
    assert await waiting
    second.release()
    assert memory.used_bytes == 0


async def test_behind_slow_clients_only_the_first_waits_in_vain() -> None:
    memory = MemoryBudget(100, patience_seconds=0.02, cooldown_seconds=10)
    assert await memory.acquire(90)
    assert not await memory.acquire(60)
    memory.patience_seconds = PATIENT
    assert not await asyncio.wait_for(memory.acquire(60), 5)
    assert await memory.acquire(10)
