"""Decides when an account's calls to the vendor are held back, and when one call may probe it.

The breaker is a state machine without a clock: its caller passes the time, in seconds that only grow.

- It opens for a vendor that is down: so many calls in a row failed, for so many sessions, within a minute.
  One answered call of any status ends the row, so neither a session that the vendor fails every time nor
  calls that fail now and then hold back the calls of others.
- While the vendor is down, one call per pause goes through as a probe, and the pause doubles with each. The
  first answer, to a probe or to an earlier call, closes the breaker for all.
- A 429 with Retry-After binds the call that got it. The third in a row, of as many sessions, is read as a
  limit of the whole account (RFC 6585 does not say which it is) and opens the breaker for that time.
- If all of these calls were of one tenant, only that tenant's calls are held back, since its own sessions may
  be the reason. The first failure of another tenant's call holds back the calls of all.
"""

from collections import deque

from msgspec import Struct

from service.domain.ids import TenantId

# Timers may fire this much early: a caller that waited for the announced time is not refused because of it.
_TIMER_SECONDS = 0.02


class CircuitBreakerRule(Struct, frozen=True, kw_only=True):
    """The failures and limits that open a breaker, and for how long; times in seconds."""

    failures: int = 10
    sessions: int = 5
    limits: int = 3
    within_seconds: float = 60.0
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 30.0
    # The vendor is asked again after this time, even if its Retry-After is longer.
    max_retry_after_seconds: float = 60.0


class CircuitBreaker:
    """The circuit breaker of one account's calls to the vendor."""

    def __init__(self, rule: CircuitBreakerRule) -> None:
        self._rule = rule
        # The latest failures in a row: the time, the session and the tenant of each.
        self._failures: deque[tuple[float, str, TenantId | None]] = deque(maxlen=10 * rule.failures)
        # While the vendor is considered down: the one tenant whose calls failed, None if there are several.
        self.down_tenant: TenantId | None = None
        # The sessions of the latest calls in a row that were answered with 429.
        self._limited_sessions: set[str] = set()
        self._answered_at = float("-inf")
        self._pause_seconds: float | None = None  # None: the vendor is not considered down
        self._next_probe = 0.0
        self._limited_until = float("-inf")

    @property
    def is_down(self) -> bool:
        """Whether the vendor is considered down; then each call that is allowed is a probe."""
        return self._pause_seconds is not None

    def is_open(self, now: float) -> bool:
        """Whether calls are held back; true until the first answer, also while a probe may be made."""
        return self.is_down or self.wait_seconds(now) > 0

    def wait_seconds(self, now: float, tenant: TenantId | None = None) -> float:
        """Return for how long no call of a tenant may be made; 0 if one may be made now."""
        if not self._holds_back(tenant):
            until = self._limited_until
        else:
            until = max(self._limited_until, self._next_probe)
        wait = until - now
        return wait if wait > _TIMER_SECONDS else 0.0

    def _holds_back(self, tenant: TenantId | None) -> bool:
        return self.is_down and self.down_tenant in (None, tenant)

    def record_start(self, now: float, tenant: TenantId | None = None) -> None:
        """Record that a call is made, which `wait_seconds` allowed."""
        if self._pause_seconds is not None and self._holds_back(tenant):
            self._pause_seconds = min(2 * self._pause_seconds, self._rule.max_pause_seconds)
            self._next_probe = now + self._pause_seconds

    def record_answer(self, now: float) -> None:
        """Record an answer of any status but 429 and 5xx: the vendor is up, and takes calls."""
        self._limited_sessions.clear()
        self._record_contact(now)

    def _record_contact(self, now: float) -> None:
        self._failures.clear()
        self._answered_at = now
        self._pause_seconds = None
        self.down_tenant = None

    def record_limit(
        self,
        now: float,
        began: float,
        session: str,
        retry_after_seconds: float | None,
        tenant: TenantId | None = None,
    ) -> None:
        """Record an answer of 429; without a Retry-After it counts as a failure."""
        if retry_after_seconds is None:
            self.record_failure(now, began, session, None, tenant)
            return
        self._record_contact(now)
        self._limited_sessions.add(session)
        if len(self._limited_sessions) < self._rule.limits:
            return
        self._limited_until = max(self._limited_until, now + self._bounded(retry_after_seconds))

    def record_failure(
        self,
        now: float,
        began: float,
        session: str,
        retry_after_seconds: float | None,
        tenant: TenantId | None = None,
    ) -> None:
        """Record a call that got no answer, or a 5xx; `began` is the time at which it was made."""
        if self._pause_seconds is not None:
            if not self._holds_back(tenant):
                self.down_tenant = None  # the vendor fails for another tenant, too
            self._next_probe = max(self._next_probe, now + self._bounded(retry_after_seconds or 0.0))
            return
        if began <= self._answered_at:
            return  # another call was answered since, so this failure says nothing about the present
        self._failures.append((now, session, tenant))
        while self._failures[0][0] < now - self._rule.within_seconds:
            self._failures.popleft()
        sessions = {each for _, each, _ in self._failures}
        tenants = {each for *_, each in self._failures}
        if len(self._failures) >= self._rule.failures and len(sessions) >= self._rule.sessions:
            self.down_tenant = tenants.pop() if len(tenants) == 1 else None
            self._pause_seconds = self._rule.min_pause_seconds
            self._next_probe = now + max(self._pause_seconds, self._bounded(retry_after_seconds or 0.0))

    def _bounded(self, retry_after_seconds: float) -> float:
        return min(retry_after_seconds, self._rule.max_retry_after_seconds)
