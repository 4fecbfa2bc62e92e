"""Compares this process's clock with PostgreSQL's every five seconds, and logs when it is wrong.

Webhook signatures carry a timestamp: a wrong clock would make every receiver refuse them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Gauge

from service.domain.clock import CheckedClock, steady_seconds
from service.domain.errors import StoreUnavailable
from service.observability.logging import describe_failure

log = structlog.get_logger()

OFFSET = Gauge(
    "ekabridge_clock_offset_seconds",
    "By how many seconds the process's clock is off, ahead or behind.",
    multiprocess_mode="livemax",
)
_EVERY_SECONDS = 5.0
_FIRST_LOOK_SECONDS = 2.0
# A slower answer does not tell precisely enough at which moment PostgreSQL read its clock.
_LONGEST_LOOK_SECONDS = 1.0


class ClockMonitor:
    """Runs as long as the process. `look` reads PostgreSQL's clock, in seconds since 1970."""

    def __init__(
        self,
        clock: CheckedClock,
        look: Callable[[Callable[[], float]], Awaitable[tuple[float, float, float]]],
    ) -> None:
        self._clock = clock
        self._look = look
        self._task: asyncio.Task[None] | None = None
        self._was_off = False

    async def start(self, *, wait_seconds: float = _FIRST_LOOK_SECONDS) -> None:
        """Start, and wait up to `wait_seconds` for the first comparison: nothing is signed before it."""
        first = asyncio.Event()
        self._task = asyncio.create_task(self._run(first))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await first.wait()

    async def stop(self) -> None:
        """Stop comparing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, first: asyncio.Event) -> None:
        while True:
            try:
                shown, asked, answered = await self._look(steady_seconds)
                if answered - asked <= _LONGEST_LOOK_SECONDS:
                    self._clock.observe_database_time(shown, (asked + answered) / 2)
            except StoreUnavailable:
                pass  # the last known offset stays in force
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
                log.error("clock_watch_failed", **describe_failure(error))
            first.set()
            self._report()
            await asyncio.sleep(_EVERY_SECONDS)

    def _report(self) -> None:
        OFFSET.set(abs(self._clock.offset_seconds))
        is_off = self._clock.is_off
        if is_off != self._was_off:
            said = {"offset_seconds": round(self._clock.offset_seconds, 1)}
            if is_off:
                log.warning("clock_is_off", **said)
            else:
                log.info("clock_is_right", **said)
        self._was_off = is_off
