"""Finds what is due although nobody said so: lost nudges, leases that ran out, late webhooks, expiry.

What is due is claimed by every process, each row by one of them; the rest is done by one process for all.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import structlog
from prometheus_client import Gauge

from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease
from service.domain.models import DeliveryJob, FetchJob, PendingCall
from service.domain.results.fetching import ResultFetcher
from service.jobs.job_pool import JobPool
from service.jobs.retention import Retention
from service.observability.logging import failure
from service.store.idempotency import IdempotencyRows
from service.store.leases import LeaseRows

log = structlog.get_logger()

BEAT = Gauge(
    "ekabridge_sweep_beat_timestamp_seconds", "When this process last finished a round of the sweep."
)

# Short, so that another process takes over soon; two at once would do no harm, only work twice.
_LEASE_SECONDS = 5.0
_HOUSEKEEPING_SECONDS = 600.0
_MAX_EXPIRED_AT_ONCE = 100


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for so long, or until told to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


class Sweep:
    """Runs at an interval; what one does for all passes to another process when that one is gone."""

    def __init__(
        self,
        *,
        leases: LeaseRows,
        idempotency: IdempotencyRows,
        fetching: ResultFetcher,
        fetches: JobPool[FetchJob],
        deliveries: JobPool[DeliveryJob],
        owed: JobPool[PendingCall],
        retention: Retention,
        interval_seconds: float,
        may_lead: Callable[[], bool],
    ) -> None:
        self._leases = leases
        self._idempotency = idempotency
        self._fetching = fetching
        self._fetches = fetches
        self._deliveries = deliveries
        self._owed = owed
        self._retention = retention
        self.interval_seconds = interval_seconds
        self._may_lead = may_lead
        self._lease = Lease(uuid4())
        self._housekeeping_due = 0.0
        self.last_beat = time.monotonic()

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until told to stop; a database that is away is waited for."""
        while not stopping.is_set():
            try:
                # Each process for itself: what one passes over, because its own way to the vendor is cut or a
                # key is missing there, is another's to do.
                await self._poke_all()
                if not self._may_lead():
                    await self._leases.release("sweep", self._lease)
                elif await self._leases.take("sweep", self._lease, _LEASE_SECONDS):
                    await self.once()
                    BEAT.set_to_current_time()
            except StoreUnavailable:
                log.warning("sweep_waits", reason="store_unavailable")
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round is a second away
                log.error("sweep_failed", **failure(error))
            self.last_beat = time.monotonic()
            await pause(stopping, self.interval_seconds)
        with contextlib.suppress(StoreUnavailable):
            await self._leases.release("sweep", self._lease)

    async def once(self) -> None:
        """Do what one process does for all."""
        steps = (self._expire, self._fetching.warn_expiring, self._keep_house)
        for step in (*steps, self._retention.run):
            await self._guarded(step)

    async def _expire(self) -> None:
        for session_id in await self._fetching.past(_MAX_EXPIRED_AT_ONCE):
            await self._guarded(partial(self._fetching.expire, session_id))

    async def _poke_all(self) -> None:
        for lane in (self._owed, self._fetches, self._deliveries):
            await self._guarded(partial(lane.wake, None))

    async def _keep_house(self) -> None:
        if time.monotonic() >= self._housekeeping_due:
            await self._idempotency.forget_old()
            self._housekeeping_due = time.monotonic() + _HOUSEKEEPING_SECONDS

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step so that its failure stops no other: a row that cannot be opened, for one."""
        try:
            await step()
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a process boundary
            log.error("sweep_step_failed", **failure(error))
