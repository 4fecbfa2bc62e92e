"""Permits go to holders in turns, whoever came first and however many of one holder wait."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from service.concurrency.fair_semaphore import FairSemaphore


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_holders_many_waiters_delay_another_by_one_permit() -> None:
    semaphore, order, may_end = FairSemaphore(1), [], asyncio.Event()

    async def first() -> None:
        async with semaphore.permit("flood"):
            await may_end.wait()

    async def hold(holder: str, number: int) -> None:
        async with semaphore.permit(holder):
            order.append((holder, number))

    tasks = [asyncio.create_task(first())]
    await rest()
    tasks += [asyncio.create_task(hold("flood", number)) for number in range(50)]
    await rest()
    tasks += [asyncio.create_task(hold("other", number)) for number in range(2)]
    await rest()
    may_end.set()
    await asyncio.gather(*tasks)
    assert order[:4] == [("flood", 0), ("other", 0), ("flood", 1), ("other", 1)]
    assert len(order) == 52


@pytest.mark.parametrize("granted_first", [False, True])
async def test_a_cancelled_waiter_keeps_no_permit(granted_first: bool) -> None:
    semaphore, may_end = FairSemaphore(1), asyncio.Event()

    async def hold() -> None:
        async with semaphore.permit("a"):
            await may_end.wait()

    async def wait_for_it() -> None:
        async with semaphore.permit("b"):
            pass

    holding = asyncio.create_task(hold())
    await rest()
    waiting = asyncio.create_task(wait_for_it())
    await rest()
    if granted_first:
        may_end.set()
        await holding  # the permit is granted, and the waiter has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    may_end.set()
    await holding
    async with asyncio.timeout(1), semaphore.permit("c"):
        pass


async def test_one_holder_leaves_permits_to_others_and_nobody_in_particular_has_no_limit() -> None:
    semaphore = FairSemaphore(4, max_per_holder=3)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(semaphore.permit("mallory"))
        waiting = asyncio.create_task(_hold(semaphore, "mallory"))
        await asyncio.sleep(0)
        async with asyncio.timeout(5), semaphore.permit("hospital"):
            assert not waiting.done()
        assert not waiting.done()
    await waiting
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(semaphore.permit(None))


async def _hold(semaphore: FairSemaphore, holder: str) -> None:
    async with semaphore.permit(holder):
        pass
