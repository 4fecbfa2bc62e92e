"""When an account's calls are held back, and when one may look whether the vendor is well again.

A state machine without a clock: whoever asks says what time it is, in seconds that only grow.

- The vendor is taken for down when so many calls in a row failed, of so many sessions, within a minute. One
  answered call, whatever it said, ends the row: neither a session that the vendor breaks over every time nor
  calls that fail now and then close the way for others.
- While it is down one call a pause goes through as a probe; the pause doubles with each. The first call that
  is answered, a probe or one from before, opens the way for all.
- 429 with Retry-After binds the call that got it. The third in a row, of as many sessions, is taken to be
  said of the account (RFC 6585 leaves open of what it is said): it holds all calls for that time.
"""

from collections import deque

from msgspec import Struct

# Timers may ring this much early; whoever waited for as long as he was told is not sent away for that.
_TIMER_SECONDS = 0.02


class CircuitRule(Struct, frozen=True, kw_only=True):
    """What closes a circuit, and for how long; times in seconds."""

    failures: int = 10
    sessions: int = 5
    limits: int = 3
    within_seconds: float = 60.0
    min_pause_seconds: float = 1.0
    max_pause_seconds: float = 30.0
    # However long the vendor asks us to stay away, it is asked again after this.
    max_asked_seconds: float = 60.0


class Circuit:
    """The way to the vendor of one account."""

    def __init__(self, rule: CircuitRule) -> None:
        self._rule = rule
        # The latest failures in a row: when, and of which session.
        self._failures: deque[tuple[float, str]] = deque(maxlen=10 * rule.failures)
        # Of which sessions the latest calls in a row were that were answered with 429.
        self._limits: set[str] = set()
        self._answered_at = float("-inf")
        self._pause_seconds: float | None = None  # None: not taken for down
        self._next_probe = 0.0
        self._held_until = float("-inf")

    @property
    def is_down(self) -> bool:
        """Whether the vendor is taken for down."""
        return self._pause_seconds is not None

    def closed_seconds(self, now: float) -> float:
        """Return for how long no call may be made; 0: one may be made now."""
        until = self._held_until if self._pause_seconds is None else max(self._held_until, self._next_probe)
        wait = until - now
        return wait if wait > _TIMER_SECONDS else 0.0

    def begin(self, now: float) -> None:
        """A call is made, which is allowed; while the vendor is down it is a probe."""
        if self._pause_seconds is not None:
            self._pause_seconds = min(2 * self._pause_seconds, self._rule.max_pause_seconds)
            self._next_probe = now + self._pause_seconds

    def answered(self, now: float) -> None:
        """A call was answered: the vendor is there, and takes calls."""
        self._limits.clear()
        self._is_there(now)

    def _is_there(self, now: float) -> None:
        self._failures.clear()
        self._answered_at = now
        self._pause_seconds = None

    def limited(self, now: float, began: float, session: str, asked_seconds: float | None) -> None:
        """A call was answered with 429; without a Retry-After that is a failure like another."""
        if asked_seconds is None:
            self.failed(now, began, session, None)
            return
        self._is_there(now)
        self._limits.add(session)
        if len(self._limits) < self._rule.limits:
            return
        self._held_until = max(self._held_until, now + self._at_most(asked_seconds))

    def failed(self, now: float, began: float, session: str, asked_seconds: float | None) -> None:
        """A call that began then got no answer, or a 5xx; `asked_seconds`: its Retry-After."""
        if self._pause_seconds is not None:
            self._next_probe = max(self._next_probe, now + self._at_most(asked_seconds or 0.0))
            return
        if began <= self._answered_at:
            return  # another call was answered since: this one says how it was, not how it is
        self._failures.append((now, session))
        while self._failures[0][0] < now - self._rule.within_seconds:
            self._failures.popleft()
        sessions = {of for _, of in self._failures}
        if len(self._failures) >= self._rule.failures and len(sessions) >= self._rule.sessions:
            self._pause_seconds = self._rule.min_pause_seconds
            self._next_probe = now + max(self._pause_seconds, self._at_most(asked_seconds or 0.0))

    def _at_most(self, asked_seconds: float) -> float:
        return min(asked_seconds, self._rule.max_asked_seconds)
