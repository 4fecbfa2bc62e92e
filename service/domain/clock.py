"""The real clock, and one that PostgreSQL and the vendor correct.

Signatures carry a time that the other side compares with its own: a process whose clock is off by minutes
would have each of them refused. So the time that counts is what the witnesses agree on, carried on by a clock
that nobody sets: the system's own clock may be wrong, or jump, without a signature ever being stale.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# From so many seconds on a process counts as one whose clock is off.
OFF_SECONDS = 5.0
# `Date` has whole seconds, cut off: on average it is half a second late.
_DATE_LAG_SECONDS = 0.5
_DATE_EVERY_SECONDS = 5.0


class SystemClock:
    """The domain's Clock: the system's time, a random number, a real wait."""

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """A random number from 0 to 1; it spreads waits, so it need not be secret."""
        return random.random()  # noqa: S311 - it spreads waits, it guards nothing

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def steady_seconds() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class CheckedClock(SystemClock):
    """A clock that is checked against PostgreSQL's, and against the vendor's `Date`.

    Of the three the middle one counts, so that none of them alone can be wrong to any effect. While the
    vendor has said nothing PostgreSQL's counts, and while PostgreSQL has not been heard either, the system's.
    """

    def __init__(
        self,
        *,
        system: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        self._system = system
        self._steady = steady
        # What each witness's clock showed when the steady one stood at 0.
        self._database: float | None = None
        self._vendor: float | None = None
        self._next_date = 0.0

    def now(self) -> datetime:
        """The corrected time, UTC."""
        return datetime.fromtimestamp(self._base() + self._steady(), UTC)

    @property
    def offset_seconds(self) -> float:
        """By how much the system's clock is ahead of the corrected time; negative: behind."""
        return self._system() - self._steady() - self._base()

    @property
    def is_off(self) -> bool:
        """Whether the system's clock is off by more than may pass for nothing."""
        return abs(self.offset_seconds) > OFF_SECONDS

    def observe_database_time(self, shown_seconds: float, steady_seconds: float) -> None:
        """Take in what PostgreSQL's clock showed at this moment of the steady clock."""
        self._database = shown_seconds - steady_seconds

    def observe_vendor_date(self, date: str | None) -> None:
        """Take in the `Date` header of an answer that came just now; one that cannot be read says nothing."""
        steady = self._steady()
        if date is None or steady < self._next_date:
            return
        try:
            shown = parsedate_to_datetime(date)
        except (ValueError, OverflowError):
            return
        self._next_date = steady + _DATE_EVERY_SECONDS
        at = shown.replace(tzinfo=UTC) if shown.tzinfo is None else shown
        self._vendor = at.timestamp() + _DATE_LAG_SECONDS - steady

    def _base(self) -> float:
        system = self._system() - self._steady()
        if self._database is None:
            return system
        if self._vendor is None:
            return self._database
        return sorted((system, self._database, self._vendor))[1]
