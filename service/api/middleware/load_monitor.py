"""How far behind its work a process is: what is in hand waits, and so would all that is let in now."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import Counter, Gauge

IN_WORK = Gauge(
    "ekabridge_requests_in_work", "Requests in work, by kind.", ("kind",), multiprocess_mode="livesum"
)
BUFFER_BYTES = Gauge(
    "ekabridge_spool_bytes",
    "Bytes of the disk that bodies have or have announced.",
    multiprocess_mode="livesum",
)
BUFFER_LIMIT_BYTES = Gauge(
    "ekabridge_spool_limit_bytes", "Bytes of the disk that bodies may have.", multiprocess_mode="livesum"
)
REFUSED = Counter(
    "ekabridge_requests_refused",
    "Requests refused because too much is in work, by kind and by what was used up.",
    ("kind", "reason"),
)
GIVEN_UP = Counter(
    "ekabridge_strangers_given_up",
    "Requests given up before it was known who sent them, by what they used up.",
    ("reason",),
)
WEBHOOKS = Counter(
    "ekabridge_webhooks",
    "Webhooks of EkaScribe by what became of them; failed ones come again.",
    ("outcome",),
)

MIN_CAPACITY_FACTOR = 0.25


class LoadMonitor:
    """What share of its places a process should give away, from how late its event loop and its database are.

    It falls by a quarter with each look that finds one of them late, to a quarter at the least, so that what
    is in hand is answered in time by a slow machine, too; it rises again within a few seconds.
    """

    interval_seconds = 0.25
    # A pause of the machine is one look: it costs little and is soon over.
    max_delay_seconds = 0.5

    def __init__(self) -> None:
        self.capacity_factor = 1.0
        self._sources: list[Callable[[], float]] = []

    def add_source(self, delay_seconds: Callable[[], float]) -> None:
        """Ask this, too, at each look: how long something was waited for since the last one."""
        self._sources.append(delay_seconds)

    def record_delay(self, delay_seconds: float) -> None:
        """Take in how late the latest of all was."""
        if delay_seconds > self.max_delay_seconds:
            self.capacity_factor = max(MIN_CAPACITY_FACTOR, self.capacity_factor * 0.75)
        else:
            self.capacity_factor = min(1.0, self.capacity_factor + 0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at the loop for as long as the process serves."""
        measuring = asyncio.create_task(self._measure())
        try:
            yield
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.interval_seconds
            await asyncio.sleep(self.interval_seconds)
            self.record_delay(max(loop.time() - due, *(source() for source in self._sources), 0.0))
