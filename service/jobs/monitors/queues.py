"""Counts due and leased rows for dashboards, alerts and the worker's autoscaler."""

import asyncio

import structlog
from prometheus_client import Gauge

from service.jobs.leader import run_as_leader
from service.observability.logging import describe_failure
from service.store.named_leases import NamedLeaseRows
from service.store.queue_depths import QueueDepthRows

log = structlog.get_logger()

DEPTH = Gauge(
    "ekabridge_queue_depth", "Rows that are due now and that nobody works on, by queue.", ("queue",)
)
OLDEST = Gauge(
    "ekabridge_queue_oldest_seconds", "For how long the row that waits longest has been due.", ("queue",)
)
LEASES = Gauge("ekabridge_leases", "Leases in force: work that somebody does this moment.", ("kind",))


class QueueMonitor:
    """Runs in one worker at a time; only that worker shows the gauges."""

    def __init__(
        self, *, leases: NamedLeaseRows, queues: QueueDepthRows, interval_seconds: float = 5.0
    ) -> None:
        self._leases = leases
        self._queues = queues
        self._interval_seconds = interval_seconds

    async def run(self, stopping: asyncio.Event) -> None:
        """Count until `stopping` is set."""
        await run_as_leader(
            "queues",
            leases=self._leases,
            interval_seconds=self._interval_seconds,
            stopping=stopping,
            count=self._count,
            hide=_hide,
            failed=lambda error: log.error("queues_failed", **describe_failure(error)),
        )

    async def _count(self) -> None:
        for queue in await self._queues.depths():
            DEPTH.labels(queue.name).set(queue.depth)
            OLDEST.labels(queue.name).set(queue.oldest_seconds)
        for kind, number in (await self._queues.leases()).items():
            LEASES.labels(kind).set(number)


def _hide() -> None:
    for gauge in (DEPTH, OLDEST, LEASES):
        gauge.clear()
