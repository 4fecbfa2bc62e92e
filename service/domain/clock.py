"""The system clock, and a clock that PostgreSQL and the vendor correct.

Signatures carry a time that the receiver compares with its own clock: it would refuse all signatures of a
process whose clock is minutes off. So CheckedClock takes the median of three clocks and advances it with a
monotonic clock. The system's clock may be wrong, or jump, and signatures stay valid.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """Time and randomness, so that a test can control both."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


# A process counts as one with a wrong clock from this difference on.
OFF_SECONDS = 5.0
# The header `Date` has truncated seconds, so that it is half a second late on average.
_DATE_LAG_SECONDS = 0.5
_DATE_EVERY_SECONDS = 5.0


class SystemClock:
    """The domain's Clock with the system's time, random numbers and real waits."""

    def now(self) -> datetime:
        """Return the system's time in UTC."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Return a random number from 0 to 1; it spreads waits, so it need not be secret."""
        return random.random()  # noqa: S311 - it spreads waits, it guards nothing

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def steady_seconds() -> float:
    """Return the seconds of a monotonic clock that also advances while the machine sleeps."""
    boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class CheckedClock(SystemClock):
    """The median of the system's clock, PostgreSQL's clock and the vendor's `Date`.

    With the median, one wrong clock has no effect. Without a time from the vendor, PostgreSQL's clock counts;
    without one from PostgreSQL, the system's clock counts.
    """

    def __init__(
        self,
        *,
        system: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        self._system = system
        self._steady = steady
        # The time on each of these clocks when the monotonic clock was 0.
        self._database: float | None = None
        self._vendor: float | None = None
        self._next_date = 0.0

    def now(self) -> datetime:
        """Return the corrected time in UTC."""
        return datetime.fromtimestamp(self._base() + self._steady(), UTC)

    @property
    def offset_seconds(self) -> float:
        """The difference between the system's clock and the corrected time; negative if it is behind."""
        return self._system() - self._steady() - self._base()

    @property
    def is_off(self) -> bool:
        """Whether the system's clock differs from the corrected time by more than OFF_SECONDS."""
        return abs(self.offset_seconds) > OFF_SECONDS

    def observe_database_time(self, shown_seconds: float, steady_seconds: float) -> None:
        """Record the time on PostgreSQL's clock at this moment of the monotonic clock."""
        self._database = shown_seconds - steady_seconds

    def observe_vendor_date(self, date: str | None) -> None:
        """Record the `Date` header of an answer that came just now; ignore an unreadable one."""
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
