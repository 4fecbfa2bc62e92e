"""Rate limits as token buckets: `burst` calls go through at once, after that `per_second` calls a second."""

import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

# About 3 MB. A key that is forgotten starts with a full bucket again.
_MAX_KEYS = 10_000


class RateLimitPolicy(Struct, frozen=True, kw_only=True):
    """A limit: in any t seconds at most `burst` calls and `per_second` times t."""

    per_second: float
    burst: int


class RateLimitState(Struct, frozen=True, kw_only=True):
    """The result of counting a call: whether it may go on, and how many more may follow at once.

    `wait_seconds` is the time until the next call may succeed; 0 while `remaining` is not.
    """

    policy: RateLimitPolicy
    is_allowed: bool
    remaining: int
    wait_seconds: float


class _Bucket:
    """The tokens of one key at one time; below zero when other processes let too many calls through."""

    __slots__ = ("at", "level")

    def __init__(self, level: float, at: float) -> None:
        self.level = level
        self.at = at

    def refill(self, policy: RateLimitPolicy, now: float) -> None:
        """Add the tokens of the time that passed; a clock that goes back adds none."""
        self.level = min(policy.burst, self.level + max(0.0, now - self.at) * policy.per_second)
        self.at = now


class LocalRateLimiter:
    """Counts the calls of each key in this process, and remembers the keys that were used last."""

    def __init__(
        self,
        policy: RateLimitPolicy,
        now: Callable[[], float] = time.monotonic,
        *,
        max_keys: int = _MAX_KEYS,
    ) -> None:
        self.policy = policy
        self.now = now
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def count(self, key: str) -> RateLimitState:
        """Count a call, unless it exceeds the limit."""
        bucket = self._refilled(key)
        is_allowed = bucket.level >= 1
        if is_allowed:
            bucket.level -= 1
        return RateLimitState(
            policy=self.policy,
            is_allowed=is_allowed,
            remaining=max(0, int(bucket.level)),
            wait_seconds=max(0.0, 1 - bucket.level) / self.policy.per_second,
        )

    def lower(self, key: str, level: float) -> None:
        """Remove tokens that other processes have used; a level above the known one changes nothing."""
        bucket = self._refilled(key)
        bucket.level = min(bucket.level, level)

    def _refilled(self, key: str) -> _Bucket:
        now = self.now()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.policy.burst, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        bucket.refill(self.policy, now)
        return bucket
