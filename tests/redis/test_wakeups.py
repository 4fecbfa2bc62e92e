"""Nudges: one names its session, many are one that names none, and a Redis that is away holds nobody up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisAway

from service.domain.ids import SessionId
from service.jobs.listener import WakeupListener
from service.redis.client import close_redis, open_redis
from service.redis.wakeups import ANY, RESULTS_DUE, ArqWakeups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ONE, OTHER, THIRD = SessionId("ses_1"), SessionId("ses_2"), SessionId("ses_3")


class Queue:
    """What ArqWakeups uses of ArqRedis."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.failures: list[Exception] = []
        self.came = asyncio.Condition()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def enqueue_job(self, name: str, session_id: str) -> None:
        assert name == RESULTS_DUE
        await self.is_open.wait()
        if self.failures:
            raise self.failures.pop()
        async with self.came:
            self.taken.append(session_id)
            self.came.notify_all()

    async def length(self, length: int) -> list[str]:
        async with asyncio.timeout(5), self.came:
            await self.came.wait_for(lambda: len(self.taken) >= length)
        return self.taken


@pytest.fixture
async def queue() -> Queue:
    return Queue()


@pytest.fixture
async def wakeups(queue: Queue) -> AsyncIterator[ArqWakeups]:
    redis: Any = queue
    made = ArqWakeups(redis)
    await made.start()
    yield made
    await made.stop()


def dropped() -> float:
    return REGISTRY.get_sample_value("ekabridge_nudges_dropped_total") or 0.0


async def test_one_that_waits_names_its_session_and_many_are_one_that_names_none(
    wakeups: ArqWakeups, queue: Queue
) -> None:
    for _ in range(5):
        wakeups.results_due(ONE)
    assert await queue.length(1) == [ONE]
    for session_id in (ONE, OTHER, THIRD):
        wakeups.results_due(session_id)
    assert await queue.length(2) == [ONE, ANY]
    wakeups.results_due(OTHER)
    assert await queue.length(3) == [ONE, ANY, OTHER]


async def test_what_is_due_while_one_is_sent_is_sent_after_it(wakeups: ArqWakeups, queue: Queue) -> None:
    queue.is_open.clear()
    wakeups.results_due(ONE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    wakeups.results_due(OTHER)
    queue.is_open.set()
    assert await queue.length(2) == [ONE, OTHER]


async def test_a_flood_of_them_is_a_few_calls(wakeups: ArqWakeups, queue: Queue) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 0.2:
        wakeups.results_due(ONE)
        wakeups.results_due(OTHER)
        await asyncio.sleep(0)
    assert 2 <= len(queue.taken) <= 12
    assert set(queue.taken) == {ANY}


@pytest.mark.parametrize("error", [RedisAway(), TimeoutError(), OSError(), ValueError()])
async def test_what_redis_does_not_take_is_dropped_counted_and_followed_by_others(
    wakeups: ArqWakeups, queue: Queue, error: Exception
) -> None:
    before = dropped()
    queue.failures.append(error)
    wakeups.results_due(ONE)
    async with asyncio.timeout(5):
        while queue.failures:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)
    assert dropped() == before + 1
    wakeups.results_due(OTHER)
    assert await queue.length(1) == [OTHER]


async def test_a_worker_looks_at_the_session_that_is_named_or_at_whatever_is_due(redis_url: str) -> None:
    looks: asyncio.Queue[SessionId | None] = asyncio.Queue()
    calls: asyncio.Queue[SessionId | None] = asyncio.Queue()

    async def wake(session_id: SessionId | None) -> None:
        looks.put_nowait(session_id)

    async def wake_calls(session_id: SessionId | None) -> None:
        calls.put_nowait(session_id)

    stopping, redis = asyncio.Event(), open_redis(redis_url)
    listening = asyncio.create_task(WakeupListener(redis_url, wake, wake_calls).run(stopping))
    wakeups = ArqWakeups(redis)
    await wakeups.start()
    async with asyncio.timeout(10):
        wakeups.results_due(ONE)
        assert await looks.get() == ONE
        wakeups.results_due(ONE)
        wakeups.results_due(OTHER)
        assert await looks.get() is None
        wakeups.calls_due()
        assert await calls.get() is None
        assert looks.empty()
        stopping.set()
        await listening
    await wakeups.stop()
    await close_redis(redis)
