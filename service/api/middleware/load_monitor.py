"""The load of a process: the metrics that show it, and a monitor that lowers the limits of a slow process.

A process whose event loop or database is late answers every request late. It admits fewer new requests then,
so that the requests in work are still answered in time.
"""

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
    """Computes `capacity_factor`, the share of its limits that a process should use, from 0.25 to 1.

    Each measurement that finds the event loop or the database late lowers the factor by a quarter; the factor
    rises again within a few seconds once both are in time.
    """

    interval_seconds = 0.25
    # A single pause of the machine counts as one late measurement, which lowers the factor only a little.
    max_delay_seconds = 0.5

    def __init__(self) -> None:
        self.capacity_factor = 1.0
        self._sources: list[Callable[[], float]] = []

    def add_source(self, delay_seconds: Callable[[], float]) -> None:
        """Add a function that returns the longest delay, in seconds, since its last call."""
        self._sources.append(delay_seconds)

    def record_delay(self, delay_seconds: float) -> None:
        """Adjust the factor to the largest delay of one measurement."""
        if delay_seconds > self.max_delay_seconds:
            self.capacity_factor = max(MIN_CAPACITY_FACTOR, self.capacity_factor * 0.75)
        else:
            self.capacity_factor = min(1.0, self.capacity_factor + 0.05)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Measure in the background until the context ends."""
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
