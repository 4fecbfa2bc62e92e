"""Token buckets, by a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from service.api.rate_limit import _fields
from service.domain.token_bucket import LocalRateLimiter, RateLimitPolicy, RateLimitState
from service.redis.rate_limiter import AWAY, SharedRateLimiter


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@given(
    per_second=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=80),
)
def test_in_any_time_no_more_than_the_burst_and_the_rate(
    per_second: float, burst: int, waits: list[float]
) -> None:
    clock = Clock()
    limiter = LocalRateLimiter(RateLimitPolicy(per_second=per_second, burst=burst), clock)
    allowed = []
    for wait in waits:
        clock.seconds += wait
        if limiter.count("key").is_allowed:
            allowed.append(clock.seconds)
    for first, begin in enumerate(allowed):
        for last in range(first, len(allowed)):
            assert last - first + 1 <= burst + per_second * (allowed[last] - begin) + 1e-6


def test_who_waits_as_told_is_let_through() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(RateLimitPolicy(per_second=0.5, burst=2), clock)
    assert [limiter.count("key").remaining for _ in range(2)] == [1, 0]
    refused = limiter.count("key")
    assert (refused.is_allowed, refused.remaining) == (False, 0)
    assert 1.9 < refused.wait_seconds <= 2
    clock.seconds += refused.wait_seconds + 0.001
    assert limiter.count("key").is_allowed
    clock.seconds += 1000
    assert [limiter.count("key").is_allowed for _ in range(3)] == [True, True, False]


def test_one_caller_does_not_count_for_another_and_memory_is_bounded() -> None:
    limiter = LocalRateLimiter(RateLimitPolicy(per_second=1, burst=1), Clock(), max_keys=10)
    assert all(limiter.count(f"key {number}").is_allowed for number in range(10))
    assert not limiter.count("key 0").is_allowed
    assert limiter.count("key 10").is_allowed  # the one that was used longest ago, 1, makes room
    assert not limiter.count("key 0").is_allowed
    assert limiter.count("key 1").is_allowed
    assert len(limiter._buckets) == 10


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = Clock()
    limiter = LocalRateLimiter(RateLimitPolicy(per_second=1, burst=1), clock)
    assert limiter.count("key").is_allowed
    clock.seconds -= 500
    assert not limiter.count("key").is_allowed


def test_the_fields_are_whole_numbers_of_at_least_what_is_to_be_waited() -> None:
    state = RateLimitState(
        policy=RateLimitPolicy(per_second=3, burst=10), is_allowed=False, remaining=0, wait_seconds=1.2
    )
    assert dict(_fields(state)) == {
        b"ratelimit-policy": b'"key";q=10;w=4',
        b"ratelimit": b'"key";r=0;t=2',
        b"ratelimit-limit": b"10",
        b"ratelimit-remaining": b"0",
        b"ratelimit-reset": b"2",
    }


class Deaf:
    """A Redis client whose first pipeline swallows cancellations until it is told to end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.pipelines = 0

    @contextlib.asynccontextmanager
    async def pipeline(self, *, transaction: bool) -> AsyncIterator[Deaf]:
        self.pipelines += 1
        yield self

    def eval(self, *_: object) -> None:
        pass

    async def execute(self) -> list[list[int]]:
        while self.pipelines == 1 and not self.may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.may_end.wait()
        return [[0]]


async def test_a_client_that_swallows_a_cancellation_holds_up_no_later_exchange() -> None:
    deaf = Deaf()
    limiter = SharedRateLimiter(deaf, RateLimitPolicy(per_second=1, burst=10), interval_seconds=0.01)
    limiter.count("key")
    await limiter.start()
    try:
        async with asyncio.timeout(20):
            while deaf.pipelines < 2 or AWAY._value.get():  # noqa: ASYNC110 - another task's state
                await asyncio.sleep(0.01)
    finally:
        deaf.may_end.set()
        await limiter.stop()
