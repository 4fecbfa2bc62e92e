"""The memory of large responses: one tenant leaves some to others, and a slow reader is disconnected."""

from __future__ import annotations

import asyncio

import pytest

from service.api.middleware.response_memory import ResponseMemory, ResponsePermit
from service.domain.errors import Overloaded
from service.domain.ids import TenantId


def permit_of(memory: ResponseMemory, tenant: str, cuts: list[str] | None = None) -> ResponsePermit:
    permit = ResponsePermit(memory, None if cuts is None else lambda: cuts.append(tenant))
    permit.tenant = TenantId(tenant)
    return permit


async def test_a_finished_response_holds_only_its_own_bytes_and_all_are_released() -> None:
    memory = ResponseMemory(120)
    permit = permit_of(memory, "a")
    await permit.acquire(20)
    assert memory.used_bytes == 60  # the row, its text, the answer
    permit.on_ready(25)
    assert memory.used_bytes == 25
    permit.on_ready(90)  # what was not counted before is not counted now
    assert memory.used_bytes == 25
    permit.release()
    permit.release()
    assert memory.used_bytes == 0


async def test_one_tenant_leaves_a_quarter() -> None:
    memory = ResponseMemory(120, max_wait_seconds=0.05)
    await permit_of(memory, "a").acquire(30)
    with pytest.raises(Overloaded):
        await permit_of(memory, "a").acquire(1)
    await permit_of(memory, "b").acquire(10)
    with pytest.raises(Overloaded):
        await permit_of(memory, "c").acquire(1)


async def test_the_largest_of_all_has_a_share_to_itself() -> None:
    memory = ResponseMemory(120, max_wait_seconds=0.05)
    await permit_of(memory, "a").acquire(1_000_000)
    assert memory.used_bytes == 90


async def test_a_waiting_request_continues_when_memory_is_free() -> None:
    memory = ResponseMemory(120, max_wait_seconds=60, grace_seconds=60)
    first, second = permit_of(memory, "a"), permit_of(memory, "a")
    await first.acquire(30)
    waiting = asyncio.create_task(second.acquire(30))
    await asyncio.sleep(0)
    first.release()
    async with asyncio.timeout(5):
        await waiting
    assert second.size == 90


async def test_a_slow_reader_is_disconnected_only_while_others_wait() -> None:
    cuts: list[str] = []
    memory = ResponseMemory(120, max_wait_seconds=0.6, grace_seconds=0.1)
    slow = permit_of(memory, "slow", cuts)
    await slow.acquire(30)
    await asyncio.sleep(0.3)  # the time itself is what is tested
    assert cuts == []
    with pytest.raises(Overloaded):
        await permit_of(memory, "slow").acquire(30)
    assert "slow" in cuts


async def test_a_reader_of_a_stream_is_cut_only_if_its_last_part_took_too_long() -> None:
    memory, cuts = ResponseMemory(120, max_wait_seconds=0.6, grace_seconds=0.2), []
    quick, slow = permit_of(memory, "quick", cuts), permit_of(memory, "slow", cuts)
    await quick.acquire(20)
    await slow.acquire(20)
    waiting = asyncio.create_task(permit_of(memory, "third").acquire(20))
    while not waiting.done():
        quick.on_progress()
        await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await waiting
    assert set(cuts) == {"slow"}
