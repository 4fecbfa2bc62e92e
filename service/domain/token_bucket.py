"""How often somebody may call: token buckets. `burst` calls go through at once, then so many a second."""

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

# About 3 MB. Who is forgotten starts with a full bucket again.
_MAX_BUCKETS = 10_000


class Policy(Struct, frozen=True, kw_only=True):
    """A limit: in any t seconds no more than `burst` calls and `per_second` times t."""

    per_second: float
    burst: int


class Standing(Struct, frozen=True, kw_only=True):
    """How somebody stands after a call: whether it may go on, and what is left.

    `wait_seconds` is the time until the next call may succeed; 0 while there is some left.
    """

    policy: Policy
    is_allowed: bool
    remaining: int
    wait_seconds: float


class Bucket:
    """The tokens of one caller. Times are seconds of one clock."""

    __slots__ = ("_at", "_level", "_policy")

    def __init__(self, policy: Policy, now: float) -> None:
        self._policy = policy
        self._level = float(policy.burst)
        self._at = now

    def level(self, now: float) -> float:
        """How many tokens there are."""
        grown = max(0.0, now - self._at) * self._policy.per_second
        return min(float(self._policy.burst), self._level + grown)

    def take(self, now: float) -> None:
        """Take a token, which must be there."""
        self._level = self.level(now) - 1
        self._at = now

    def wait_seconds(self, now: float) -> float:
        """How long until there is a token."""
        return max(0.0, 1 - self.level(now)) / self._policy.per_second


class LocalRates:
    """A bucket for each of the callers that this process has seen of late."""

    def __init__(self, policy: Policy, time: Callable[[], float], *, max_buckets: int = _MAX_BUCKETS) -> None:
        self.policy = policy
        self._time = time
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def bucket(self, name: str) -> Bucket:
        """The bucket of a caller, full when the caller is new."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self.policy, self._time())
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        return bucket

    def take(self, name: str) -> Standing:
        """Count a call, unless it is too much."""
        now, bucket = self._time(), self.bucket(name)
        is_allowed = bucket.level(now) >= 1
        if is_allowed:
            bucket.take(now)
        return Standing(
            policy=self.policy,
            is_allowed=is_allowed,
            remaining=int(bucket.level(now)),
            wait_seconds=bucket.wait_seconds(now),
        )
