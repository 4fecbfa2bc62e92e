"""Compares this process's clock with PostgreSQL's every few seconds, and says when it is off."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Gauge

from service.domain.clock import CheckedClock, steady_seconds
from service.domain.errors import StoreUnavailable
from service.observability.logging import failure

log = structlog.get_logger()

OFFSET = Gauge(
    "ekabridge_clock_offset_seconds",
    "By how many seconds the process's clock is off, ahead or behind.",
    multiprocess_mode="livemax",
)
_EVERY_SECONDS = 5.0
_FIRST_LOOK_SECONDS = 2.0
# An answer that took longer says too little about when the clock showed what it showed.
_LONGEST_LOOK_SECONDS = 1.0


class ClockMonitor:
    """Runs for as long as the process does. `look` reads PostgreSQL's clock, in seconds since 1970."""

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
        """Begin to watch; a database that answers within this time is heard before anything is signed."""
        first = asyncio.Event()
        self._task = asyncio.create_task(self._run(first))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await first.wait()

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, first: asyncio.Event) -> None:
        while True:
            try:
                shown, asked, answered = await self._look(steady_seconds)
                if answered - asked <= _LONGEST_LOOK_SECONDS:
                    self._clock.hear_database(shown, (asked + answered) / 2)
            except StoreUnavailable:
                pass  # what is known goes on
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
                log.error("clock_watch_failed", **failure(error))
            first.set()
            self._tell()
            await asyncio.sleep(_EVERY_SECONDS)

    def _tell(self) -> None:
        OFFSET.set(abs(self._clock.offset_seconds))
        is_off = self._clock.is_off
        if is_off != self._was_off:
            said = {"offset_seconds": round(self._clock.offset_seconds, 1)}
            if is_off:
                log.warning("clock_is_off", **said)
            else:
                log.info("clock_is_right", **said)
        self._was_off = is_off
