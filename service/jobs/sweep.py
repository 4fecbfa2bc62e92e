"""The sweep: finds due rows whose wake-up was lost, whose lease ran out, or whose session expired.

Every worker claims due rows at each round, so a worker that cannot reach the vendor holds nothing up. Expiry,
warnings, retention and housekeeping are done by one worker at a time, the one that holds the lease "sweep".
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import uuid4

import structlog
from prometheus_client import Gauge

from service.domain.deliveries.models import DeliveryJob
from service.domain.errors import EncryptionKeyMissing, StoreUnavailable
from service.domain.ids import Lease
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import FetchJob
from service.domain.sessions.models import PendingCall
from service.jobs.job_pool import JobPool
from service.jobs.retention import RetentionJob
from service.observability.logging import describe_failure
from service.store.idempotency import IdempotencyRows
from service.store.named_leases import NamedLeaseRows

log = structlog.get_logger()

BEAT = Gauge(
    "ekabridge_sweep_beat_timestamp_seconds", "When this process last finished a round of the sweep."
)

# Short, so that another worker takes over soon; two leaders at once do no harm, they only work twice.
_LEASE_SECONDS = 5.0
_HOUSEKEEPING_SECONDS = 600.0
_MAX_EXPIRED_AT_ONCE = 100
_HANG_SECONDS = 60.0


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for this time, or until `stopping` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


class Sweep:
    """Runs at an interval in every worker; the leader's steps pass to another worker when the leader ends."""

    def __init__(
        self,
        *,
        leases: NamedLeaseRows,
        idempotency: IdempotencyRows,
        fetching: ResultFetcher,
        fetches: JobPool[FetchJob],
        deliveries: JobPool[DeliveryJob],
        pending_calls: JobPool[PendingCall],
        retention: RetentionJob,
        interval_seconds: float,
        check_keys: Callable[[], Awaitable[None]],
    ) -> None:
        self._leases = leases
        self._idempotency = idempotency
        self._fetching = fetching
        self._fetches = fetches
        self._deliveries = deliveries
        self._pending_calls = pending_calls
        self._retention = retention
        self.interval_seconds = interval_seconds
        self._check_keys = check_keys
        self._lease = Lease(uuid4())
        self._housekeeping_due = 0.0
        self.last_beat = time.monotonic()

    def is_alive(self) -> bool:
        """Whether a round ended lately: every round ends, even without PostgreSQL, unless it hangs."""
        return time.monotonic() - self.last_beat < _HANG_SECONDS + self.interval_seconds

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until `stopping` is set; without PostgreSQL each round only logs that it waits."""
        while not stopping.is_set():
            try:
                await self._check_keys()
                # Each worker claims for itself: rows that this one passes over, because its circuit breaker
                # is open, are claimed by another.
                await self._wake_all()
                if await self._leases.acquire("sweep", self._lease, _LEASE_SECONDS):
                    await self.once()
                    BEAT.set_to_current_time()
            except StoreUnavailable:
                log.warning("sweep_waits", reason="store_unavailable")
            except EncryptionKeyMissing as error:
                # A process that has the key leads and does the work.
                log.error("encryption_key_missing", key_ids=error.key_ids)
                await self._release_lead()
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round is a second away
                log.error("sweep_failed", **describe_failure(error))
            self.last_beat = time.monotonic()
            await pause(stopping, self.interval_seconds)
        await self._release_lead()

    async def _release_lead(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._leases.release("sweep", self._lease)

    async def once(self) -> None:
        """Do each of the leader's steps once."""
        steps = (self._expire, self._fetching.warn_expiring, self._forget_old_keys)
        for step in (*steps, self._retention.run):
            await self._guarded(step)

    async def _expire(self) -> None:
        for session_id in await self._fetching.past(_MAX_EXPIRED_AT_ONCE):
            await self._guarded(partial(self._fetching.expire, session_id))

    async def _wake_all(self) -> None:
        for pool in (self._pending_calls, self._fetches, self._deliveries):
            await self._guarded(partial(pool.wake, None))

    async def _forget_old_keys(self) -> None:
        if time.monotonic() >= self._housekeeping_due:
            await self._idempotency.forget_old()
            self._housekeeping_due = time.monotonic() + _HOUSEKEEPING_SECONDS

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step whose failure stops no other step: a row that cannot be decrypted, for example."""
        try:
            await step()
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a process boundary
            log.error("sweep_step_failed", **describe_failure(error))
