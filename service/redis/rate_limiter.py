"""The limit of calls per API key, counted in Redis for all processes together.

Redis holds a bucket for each caller, as the time when it will be full (GCRA), read and moved on by one script
with Redis's own clock. A process that is called often draws some tokens more than it needs at once and spends
them without asking; they expire as fast as the bucket makes as many, and the bucket is smaller by so many, so
that in any t seconds all processes together let no more than `burst` + t times `per_second` calls through.

Without Redis each process counts for itself. It does so at all times: a flushed Redis forgives nobody.
"""

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from prometheus_client import Gauge

from service.domain.token_bucket import Bucket, LocalRates, Policy, Standing
from service.redis.wakeups import LateRedis, open_redis, redis_errors
from service.settings import Settings

log = structlog.get_logger()

_PREFIX = "ekabridge:rate:"
_PROBE = "probe"
# Two draws may have to be waited for: one that was on its way, and one's own.
_PATIENCE_SECONDS = 0.025
_AWAY_SECONDS = 1.0
# A process draws at most this part of the limit ahead.
_AHEAD = 20
_MAX_PURSES = 10_000
# A loop that was held up finds the answer and the end of its patience at once: then the answer counts.
_GRACE_TURNS = 10

# KEYS: callers. ARGV: microseconds for a token, the bucket's size, its life in milliseconds, then for each
# caller how many tokens are wanted. Answers for each caller: given, left, microseconds until the next one.
_DRAW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, size = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer = {}
for i, key in ipairs(KEYS) do
  local full_at = math.max(now, tonumber(redis.call('GET', key) or now) or now)
  -- A clock that was set back owes nobody more than an empty bucket.
  full_at = math.min(full_at, now + size * interval)
  local level = size - (full_at - now) / interval
  local given = math.max(0, math.min(tonumber(ARGV[3 + i]), math.floor(level)))
  if given > 0 then
    full_at = math.ceil(full_at + given * interval)
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', ARGV[3])
  end
  local left = size - (full_at - now) / interval
  answer[#answer + 1] = {given, math.max(0, math.floor(left)), math.ceil(math.max(0, 1 - left) * interval)}
end
return answer
"""

AWAY = Gauge(
    "ekabridge_rate_limit_without_redis",
    "Whether calls are counted per process, as Redis is away.",
    multiprocess_mode="livemax",
)


# True for a token, False for none, None when Redis did not answer.
_Future = asyncio.Future[bool | None]


class _Purse:
    """What a process has drawn for one caller, and what it knows of the bucket in Redis."""

    __slots__ = ("_before", "_count", "_window", "good_until", "known", "left", "refused_until")

    def __init__(self) -> None:
        self.left = 0
        self.good_until = 0.0
        self.known = 0
        self.refused_until = 0.0
        self._window, self._count, self._before = 0, 0, 0

    def pace(self, now: float, window_seconds: float) -> int:
        """Count a call; return how many came within this window of time or the one before."""
        window = int(now / window_seconds)
        if window != self._window:
            self._before = self._count if window == self._window + 1 else 0
            self._window, self._count = window, 0
        self._count += 1
        return max(self._count, self._before)


class SharedRates:
    """Counts calls; never fails, and never waits long for Redis."""

    def __init__(
        self,
        redis: LateRedis,
        policy: Policy,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience_seconds = patience_seconds
        self._redis = redis
        self._policy = policy
        self._now = now
        self._local = LocalRates(policy, now)
        self._purses: OrderedDict[str, _Purse] = OrderedDict()
        # Half of what a process needs in this time is drawn ahead, and is good for as long.
        self._max_ahead = int(min(policy.per_second, policy.burst) // _AHEAD)
        self._ahead_seconds = max(1, self._max_ahead) / policy.per_second
        self._waiting: dict[str, list[_Future]] = {}
        self._ahead: dict[str, int] = {}
        self._drawing: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._away_until: float | None = None

    async def take(self, name: str) -> Standing:
        """Count a call of somebody, unless it is too much."""
        now, bucket, purse = self._now(), self._local.bucket(name), self._purse(name)
        pace = purse.pace(now, self._ahead_seconds)
        if bucket.level(now) < 1:
            return self._refused(bucket.wait_seconds(now))
        if purse.left > 0 and now < purse.good_until:
            purse.left -= 1
        elif self._is_away(now):
            bucket.take(now)
            return self._allowed(bucket, int(bucket.level(now)))
        elif now < purse.refused_until:
            return self._refused(purse.refused_until - now)
        else:
            given = await self._draw(name, min(self._max_ahead, pace // 2))
            now = self._now()
            if given is False:
                return self._refused(max(0.0, purse.refused_until - now))
            if given is None and bucket.level(now) < 1:  # others waited, too, and were first
                return self._refused(bucket.wait_seconds(now))
        bucket.take(now)
        return self._allowed(bucket, min(int(bucket.level(now)), purse.left + purse.known))

    async def stop(self) -> None:
        """Stop; nothing that was drawn is given back."""
        tasks = [task for task in (self._drawing, self._probing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._redis.close()

    def _allowed(self, bucket: Bucket, remaining: int) -> Standing:
        wait_seconds = (
            0.0 if remaining else max(bucket.wait_seconds(self._now()), 1 / self._policy.per_second)
        )
        return Standing(
            policy=self._policy, is_allowed=True, remaining=max(0, remaining), wait_seconds=wait_seconds
        )

    def _refused(self, wait_seconds: float) -> Standing:
        return Standing(policy=self._policy, is_allowed=False, remaining=0, wait_seconds=wait_seconds)

    def _purse(self, name: str) -> _Purse:
        purse = self._purses.get(name)
        if purse is None:
            purse = self._purses[name] = _Purse()
            if len(self._purses) > _MAX_PURSES:
                self._purses.popitem(last=False)
        self._purses.move_to_end(name)
        return purse

    # -- Redis -------------------------------------------------------------------------------------

    async def _draw(self, name: str, ahead: int) -> bool | None:
        """Draw a token with the next question to Redis; None when it does not answer."""
        future: _Future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(future)
        self._ahead[name] = ahead
        if self._drawing is None or self._drawing.done():
            self._drawing = asyncio.create_task(self._draw_for_all())
        return await future

    async def _draw_for_all(self) -> None:
        """Ask Redis for all who wait, one question at a time, until nobody waits."""
        asked: dict[str, list[_Future]] = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                ahead, self._ahead = self._ahead, {}
                sent = self._now()
                wanted = {
                    name: len(futures) + ahead[name]
                    for name, futures in asked.items()
                    if self._spend(self._purse(name), futures)
                }
                answers = await self._ask(wanted) if wanted else []
                if answers is None:
                    return
                for name, answer in zip(wanted, answers, strict=True):
                    self._receive(self._purse(name), asked[name], answer, sent)
        finally:
            # Redis is away, or the process is closing: nobody is left waiting.
            for futures in (*asked.values(), *self._waiting.values()):
                for future in futures:
                    if not future.done():
                        future.set_result(None)
            self._waiting.clear()

    def _spend(self, purse: _Purse, futures: list[_Future]) -> bool:
        """Serve who waits from what was drawn before; return whether somebody is left."""
        if self._now() >= purse.good_until:
            purse.left = 0
        while purse.left > 0 and futures:
            future = futures.pop()
            if not future.done():  # else, who asked has gone
                future.set_result(True)
                purse.left -= 1
        return bool(futures)

    def _receive(self, purse: _Purse, futures: list[_Future], answer: list[int], sent: float) -> None:
        given, purse.known, wait_microseconds = answer
        for future in futures:
            if future.done():
                continue
            future.set_result(given > 0)
            if given > 0:
                given -= 1
            else:
                purse.refused_until = self._now() + wait_microseconds / 1_000_000
        purse.left, purse.good_until = given, sent + self._ahead_seconds

    async def _ask(self, wanted: dict[str, int]) -> list[list[int]] | None:
        """Draw so many tokens for these callers; None, and a while of silence, when Redis is away."""
        # Not within our patience: its library may still be loaded.
        redis = await self._redis.client()
        call = asyncio.ensure_future(self._run(redis, wanted))
        call.add_done_callback(_look_at)
        try:
            await asyncio.wait({call}, timeout=self.patience_seconds)
            for _ in range(_GRACE_TURNS):
                if call.done():
                    return call.result()
                await asyncio.sleep(0)
            self._lose("TimeoutError")
        except redis_errors() as error:
            self._lose(type(error).__name__)
        finally:
            call.cancel()
        return None

    async def _run(self, redis: Any, wanted: dict[str, int]) -> list[list[int]]:
        interval = 1_000_000 / self._policy.per_second
        size = self._policy.burst - self._max_ahead
        life = math.ceil(size * interval / 1000) + 1000
        keys = [_PREFIX + name for name in wanted]
        answer = redis.eval(_DRAW, len(keys), *keys, *map(str, (interval, size, life, *wanted.values())))
        found: list[list[int]] = await answer
        return found

    def _lose(self, reason: str) -> None:
        log.warning("rate_limit_without_redis", error=reason)
        AWAY.set(1)
        self._away_until = self._now() + _AWAY_SECONDS

    def _is_away(self, now: float) -> bool:
        """Whether Redis is away; when it was for a while, somebody looks, and nobody waits for that."""
        if self._away_until is None:
            return False
        if now >= self._away_until and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe())
        return True

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_AWAY_SECONDS):
                await self._run(await self._redis.client(), {_PROBE: 1})
        except redis_errors():
            self._away_until = self._now() + _AWAY_SECONDS
            return
        log.info("rate_limit_with_redis_again")
        AWAY.set(0)
        self._away_until = None


@asynccontextmanager
async def open_rates(
    settings: Settings, loaded: Callable[[], Awaitable[None]]
) -> AsyncIterator[SharedRates | None]:
    """Open the limit of the settings, with a client of its own: it never waits behind nudges."""
    if not settings.rate_limit_per_second:
        yield None
        return
    policy = Policy(per_second=settings.rate_limit_per_second, burst=settings.rate_limit_burst)
    rates = SharedRates(LateRedis(partial(open_redis, settings.redis_url), loaded), policy)
    try:
        yield rates
    finally:
        await rates.stop()


def _look_at(call: asyncio.Task[list[list[int]]]) -> None:
    """Take note of how a call ended that nobody waits for any more."""
    if not call.cancelled():
        call.exception()
