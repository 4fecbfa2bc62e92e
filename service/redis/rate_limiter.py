"""Rate limits that all processes share: each counts in its own memory and exchanges its counts over Redis.

No request waits for Redis. Redis holds a token bucket for each key; a background task reports the calls that
this process let through, and learns from the answer how many tokens all processes have left. Between two
exchanges a process does not see the calls of the others, so each may let some more through than the limit
(docs/operations.md#limits-on-calls). These bring the shared bucket below zero: fewer go through later.
Each process keeps its own count at all times: it counts alone when Redis is away, and a flushed Redis
resets no limit.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis

from service.domain.token_bucket import LocalRateLimiter, RateLimitPolicy, RateLimitState
from service.redis.client import close_redis, open_redis

log = structlog.get_logger()

_PREFIX = "ekabridge:rate:"
# Counted when Redis may be back and no key was called meanwhile.
_PROBE_KEY = "probe"
_EXCHANGE_INTERVAL_SECONDS = 0.1
_EXCHANGE_TIMEOUT_SECONDS = 1.0
_RETRY_SECONDS = 1.0
# One key's calls cause an early exchange once they are this fraction of the burst.
_EARLY = 10
# A script holds Redis up for its whole run: 500 keys are about a millisecond.
_MAX_KEYS_OF_SCRIPT = 500
# Redis's clock may be set back, after a failover for one; a key waits for at most this many bursts.
_MAX_WAIT_BURSTS = 10

# A bucket is stored as the time at which it will be full (microseconds of Redis's clock), and expires then.
# KEYS: the buckets. ARGV: microseconds for a token, the longest wait, then the calls for each bucket. Returns
# for each bucket the microseconds until it is full.
_REPORT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local token, longest = tonumber(ARGV[1]), tonumber(ARGV[2])
local waits = {}
for i, key in ipairs(KEYS) do
  local full_at = math.max(now, tonumber(redis.pcall('GET', key)) or now)
  local calls = tonumber(ARGV[2 + i])
  full_at = math.min(full_at + calls * token, now + longest)
  waits[i] = math.ceil(full_at - now)
  if calls > 0 then
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(waits[i] / 1000))
  end
end
return waits
"""

AWAY = Gauge(
    "ekabridge_rate_limit_without_redis",
    "Whether calls are counted per process, as Redis is away.",
    multiprocess_mode="livemax",
)


class SharedRateLimiter:
    """Counts calls against a limit over all processes; counting does no I/O and cannot fail."""

    def __init__(
        self, redis: Redis, policy: RateLimitPolicy, *, interval_seconds: float = _EXCHANGE_INTERVAL_SECONDS
    ) -> None:
        """Exchange counts over this client, which its opener closes."""
        self._redis = redis
        self._policy = policy
        self._interval_seconds = interval_seconds
        self._local = LocalRateLimiter(policy)
        self._calls: dict[str, int] = {}
        self._max_unreported = math.ceil(policy.burst / _EARLY)
        self._is_due = asyncio.Event()
        self._is_away = False
        self._task: asyncio.Task[None] | None = None
        self._exchanges: set[asyncio.Task[None]] = set()

    def count(self, key: str) -> RateLimitState:
        """Count a call, unless it exceeds the limit. The next exchange asks for its key in either case."""
        state = self._local.count(key)
        calls = self._calls[key] = self._calls.get(key, 0) + state.is_allowed
        if state.is_allowed and calls >= self._max_unreported:
            self._is_due.set()
        return state

    async def start(self) -> None:
        """Start to exchange counts."""
        self._task = asyncio.create_task(self._exchange_for_ever())

    async def stop(self) -> None:
        """Stop; the last calls are not reported."""
        tasks = [each for each in (self._task, *self._exchanges) if each is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_EXCHANGE_TIMEOUT_SECONDS)

    async def _exchange_for_ever(self) -> None:
        while True:
            if self._is_away:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_seconds):
                        await self._is_due.wait()
            try:
                await self._exchange_in_time()
            except Exception as error:  # noqa: BLE001 - the limit must outlive whatever Redis answers
                self._count_alone(type(error).__name__)

    async def _exchange_in_time(self) -> None:
        """Exchange within a second. Raises TimeoutError, or the error of the exchange.

        The Redis client can swallow a cancellation, and a timeout would then wait for it without end: a late
        exchange is cancelled and left alone, and the next one uses another connection.
        """
        exchange = asyncio.create_task(self.exchange())
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._forget)
        done, _ = await asyncio.wait({exchange}, timeout=_EXCHANGE_TIMEOUT_SECONDS)
        if not done:
            exchange.cancel()
            raise TimeoutError
        exchange.result()

    def _forget(self, exchange: asyncio.Task[None]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # a late exchange was reported as a timeout

    async def exchange(self) -> None:
        """Report the calls since the last exchange, and lower each of their keys to what all have left.

        Calls are reported once at most: repeated reports would add up in a Redis that only hung.
        """
        calls, self._calls = self._calls, {}
        self._is_due.clear()
        if self._is_away:
            calls.setdefault(_PROBE_KEY, 1)
        sent, burst, per_second = self._local.now(), self._policy.burst, self._policy.per_second
        for key, wait_seconds in (await self._report(calls)).items():
            passed = self._local.now() - sent
            level = min(burst, burst + (passed - wait_seconds) * per_second)
            self._local.lower(key, level - self._calls.get(key, 0))
        if self._is_away:
            self._count_together()

    async def _report(self, calls: dict[str, int]) -> dict[str, float]:
        """Add calls to the shared buckets in one round trip; return in how many seconds each will be full."""
        token = 1_000_000 / self._policy.per_second
        limits = (str(token), str(_MAX_WAIT_BURSTS * self._policy.burst * token))
        async with self._redis.pipeline(transaction=False) as pipeline:
            for start in range(0, len(calls), _MAX_KEYS_OF_SCRIPT):
                keys = list(calls)[start : start + _MAX_KEYS_OF_SCRIPT]
                names = (_PREFIX + key for key in keys)
                pipeline.eval(_REPORT, len(keys), *names, *limits, *(str(calls[key]) for key in keys))
            answers = await pipeline.execute()
        waits = (microseconds / 1_000_000 for answer in answers for microseconds in answer)
        return dict(zip(calls, waits, strict=True))

    def _count_alone(self, error: str) -> None:
        if not self._is_away:
            log.warning("rate_limit_without_redis", error=error)
        AWAY.set(1)
        self._is_away = True

    def _count_together(self) -> None:
        log.info("rate_limit_with_redis_again")
        AWAY.set(0)
        self._is_away = False


@asynccontextmanager
async def open_rate_limiter(redis_url: str, policy: RateLimitPolicy) -> AsyncIterator[SharedRateLimiter]:
    """Open a limiter with a client of its own, which never waits behind wake-ups."""
    redis = open_redis(redis_url)
    limiter = SharedRateLimiter(redis, policy)
    await limiter.start()
    try:
        yield limiter
    finally:
        await limiter.stop()
        await close_redis(redis)
