"""Decides when an account's calls to the vendor are held back, and when one call may probe it.

The breaker is a state machine without a clock: its caller passes the time, in seconds that only grow. Several
tenants may share an account, and the sessions of one may be the reason why its calls fail. So each tenant has
a breaker of its own:

- It opens for a vendor that is down: so many calls of the tenant in a row failed, for so many sessions,
  within a minute. One answered call of any status ends the row, so neither a session that the vendor fails
  every time nor calls that fail now and then hold back other calls.
- While the vendor is down, one call of the tenant per pause goes through as a probe, and the pause doubles
  with each. The first answer, to a probe or to an earlier call, closes the breaker.
- A 429 with Retry-After binds the call that got it. The third in a row, of as many sessions, is read as a
  limit of all calls (RFC 6585 does not say which it is) and opens the tenant's breaker for that time.

The account is open as a whole when as many calls failed within a minute, of three tenants or of all that
called (at least two), and no call was answered in that minute. Then a tenant whose calls have not failed
makes only probes as well, at its own pauses, so that no failing tenant can use them up. The first answer to
any tenant closes the account, and the breakers of all its tenants.
"""

from collections import OrderedDict, deque

from msgspec import Struct

from service.domain.ids import TenantId

# Timers may fire this much early: a caller that waited for the announced time is not refused because of it.
_TIMER_SECONDS = 0.02
# So many failing tenants are reason enough to open the account, whatever other tenants' calls do.
_MANY_TENANTS = 3
_NEVER = float("-inf")


class VendorCircuitBreakerRule(Struct, frozen=True, kw_only=True):
    """The failures and limits that open a breaker, and for how long; times in seconds."""

    failures: int = 10
    sessions: int = 5
    limited_answers: int = 3
    within_seconds: float = 60.0
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 30.0
    # The vendor is asked again after this time, even if its Retry-After is longer.
    max_retry_after_seconds: float = 60.0
    # So many tenants of an account are remembered: those that called last.
    max_tenants: int = 1000

    def bounded(self, retry_after_seconds: float | None) -> float:
        """Return for how long a Retry-After is obeyed."""
        return min(retry_after_seconds or 0.0, self.max_retry_after_seconds)


class _FailureStreak:
    """The latest failed calls: the time, the session and the tenant of each."""

    def __init__(self, rule: VendorCircuitBreakerRule) -> None:
        self._rule = rule
        self._failures: deque[tuple[float, str, TenantId | None]] = deque(maxlen=10 * rule.failures)

    @property
    def tenants(self) -> set[TenantId | None]:
        return {tenant for *_, tenant in self._failures}

    def add(self, now: float, session: str, tenant: TenantId | None = None) -> bool:
        """Add a failure, and return whether those of the last minute are enough to open a breaker."""
        self._failures.append((now, session, tenant))
        while self._failures[0][0] < now - self._rule.within_seconds:
            self._failures.popleft()
        sessions = {each for _, each, _ in self._failures}
        return len(self._failures) >= self._rule.failures and len(sessions) >= self._rule.sessions

    def clear(self) -> None:
        self._failures.clear()


class _TenantBreaker:
    """The circuit breaker of one tenant's calls for an account."""

    def __init__(self, rule: VendorCircuitBreakerRule) -> None:
        self._rule = rule
        self._failures = _FailureStreak(rule)
        # The sessions of the latest calls in a row that were answered with 429.
        self._limited_sessions: set[str] = set()
        self._answered_at = _NEVER
        self._pause_seconds: float | None = None  # None: the vendor is not considered down
        self._next_probe = _NEVER
        self._limited_until = _NEVER
        self.started_at = _NEVER

    @property
    def is_down(self) -> bool:
        return self._pause_seconds is not None

    @property
    def held_back_until(self) -> float:
        return max(self._limited_until, self._next_probe) if self.is_down else self._limited_until

    def open(self, next_probe: float) -> None:
        self._pause_seconds = self._rule.min_pause_seconds
        self._next_probe = next_probe

    def record_start(self, now: float) -> None:
        self.started_at = now
        if self._pause_seconds is not None:
            self._pause_seconds = min(2 * self._pause_seconds, self._rule.max_pause_seconds)
            self._next_probe = now + self._pause_seconds

    def record_answer(self, now: float) -> None:
        self._limited_sessions.clear()
        self.record_contact(now)

    def record_contact(self, now: float) -> None:
        """Record that the vendor is up, whether or not it accepts calls."""
        self._failures.clear()
        self._answered_at = now
        self._pause_seconds = None

    def record_limit(self, now: float, session: str, retry_after_seconds: float) -> None:
        self.record_contact(now)
        if len(self._limited_sessions) < self._rule.limited_answers:
            self._limited_sessions.add(session)
        if len(self._limited_sessions) >= self._rule.limited_answers:
            self._limited_until = max(self._limited_until, now + self._rule.bounded(retry_after_seconds))

    def record_failure(
        self,
        now: float,
        began: float,
        session: str,
        retry_after_seconds: float | None,
    ) -> None:
        asked = self._rule.bounded(retry_after_seconds)
        if self.is_down:
            self._next_probe = max(self._next_probe, now + asked)
            return
        if began <= self._answered_at:
            return  # another call was answered since, so this failure says nothing about the present
        if self._failures.add(now, session):
            self.open(now + max(self._rule.min_pause_seconds, asked))


class VendorCircuitBreaker:
    """The circuit breaker of one account's calls to the vendor, with a breaker for each tenant."""

    def __init__(self, rule: VendorCircuitBreakerRule) -> None:
        self._rule = rule
        # Ordered by their latest call, so that the first is forgotten when there are too many.
        self._tenants: OrderedDict[TenantId | None, _TenantBreaker] = OrderedDict()
        # The tenants whose breakers are open, and some whose limit has ended.
        self._open_tenants: set[TenantId | None] = set()
        # The latest failures of all tenants.
        self._failures = _FailureStreak(rule)
        self._answered_at = _NEVER
        self._opened_at: float | None = None  # None: the account is not open as a whole

    @property
    def is_down(self) -> bool:
        """Whether the vendor is considered down for any tenant; then each call of that tenant is a probe."""
        return self._opened_at is not None or any(self._tenants[each].is_down for each in self._open_tenants)

    def is_down_for(self, tenant: TenantId | None) -> bool:
        """Whether the vendor is considered down for a tenant's calls."""
        breaker = self._tenants.get(tenant)
        return self._opened_at is not None or (breaker is not None and breaker.is_down)

    def is_open(self, now: float) -> bool:
        """Whether any calls are held back; true until the first answer, also while a probe may be made."""
        return self.is_down or any(self.wait_seconds(now, each) for each in self._open_tenants)

    def wait_seconds(self, now: float, tenant: TenantId | None = None) -> float:
        """Return for how long no call of a tenant may be made; 0 if one may be made now."""
        breaker = self._tenants.get(tenant)
        until = _NEVER if breaker is None else breaker.held_back_until
        if self._opened_at is not None:
            until = max(until, self._opened_at + self._rule.min_pause_seconds)
        wait = until - now
        return wait if wait > _TIMER_SECONDS else 0.0

    def held_back_tenants(self, now: float) -> list[TenantId]:
        """Return the tenants whose own breakers let no call through now."""
        return [each for each in self._open_tenants if each is not None and self.wait_seconds(now, each)]

    def record_start(self, now: float, tenant: TenantId | None = None) -> None:
        """Record that a call is made, which `wait_seconds` allowed.

        While the vendor is down this is the rule of one probe: the call that starts now is the probe, and the
        next one may start only after the pause, which doubles.
        """
        breaker = self._breaker_of(tenant)
        if self._opened_at is not None and not breaker.is_down:
            breaker.open(now)
        breaker.record_start(now)
        self._note_state(now, tenant)

    def record_answer(self, now: float, tenant: TenantId | None = None) -> None:
        """Record an answer of any status but 429 and 5xx: the vendor is up, and takes calls."""
        self._record_contact(now)
        self._breaker_of(tenant).record_answer(now)
        self._note_state(now, tenant)

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
        self._breaker_of(tenant).record_limit(now, session, retry_after_seconds)
        self._note_state(now, tenant)

    def record_failure(
        self,
        now: float,
        began: float,
        session: str,
        retry_after_seconds: float | None,
        tenant: TenantId | None = None,
    ) -> None:
        """Record a call that got no answer, or a 5xx; `began` is the time at which it was made."""
        self._breaker_of(tenant).record_failure(now, began, session, retry_after_seconds)
        self._note_state(now, tenant)
        if self._opened_at is not None:
            return
        is_enough = self._failures.add(now, session, tenant)
        since = now - self._rule.within_seconds
        if is_enough and self._answered_at < since and self._is_shared_failure(since):
            self._opened_at = now

    def _is_shared_failure(self, since: float) -> bool:
        """Tell whether the calls of so many tenants fail that no single one can be the reason."""
        failing = self._failures.tenants
        if len(failing) >= _MANY_TENANTS:
            return True
        called = {tenant for tenant, each in self._tenants.items() if each.started_at >= since}
        return len(failing) > 1 and called <= failing

    def _record_contact(self, now: float) -> None:
        self._answered_at = now
        if self._opened_at is None:
            return
        self._opened_at = None
        for tenant, breaker in self._tenants.items():
            breaker.record_contact(now)
            self._note_state(now, tenant)

    def _breaker_of(self, tenant: TenantId | None) -> _TenantBreaker:
        breaker = self._tenants.get(tenant)
        if breaker is None:
            breaker = self._tenants[tenant] = _TenantBreaker(self._rule)
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > self._rule.max_tenants:
            forgotten, _ = self._tenants.popitem(last=False)
            self._open_tenants.discard(forgotten)
        return breaker

    def _note_state(self, now: float, tenant: TenantId | None) -> None:
        breaker = self._tenants[tenant]
        if breaker.is_down or breaker.held_back_until > now:
            self._open_tenants.add(tenant)
        else:
            self._open_tenants.discard(tenant)
