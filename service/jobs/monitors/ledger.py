"""Counts the ledger every 15 seconds: shows gauges, and logs an error as soon as a session is lost."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from schemas.ledger import Ledger
from service.jobs.leader import run_as_leader
from service.observability.logging import describe_failure
from service.store.ledger import LedgerRows
from service.store.named_leases import NamedLeaseRows

log = structlog.get_logger()

SESSIONS = Gauge(
    "ekabridge_ledger_sessions",
    "Sessions of all tenants that were ended or expired, by how they stand; lost is always 0",
    ["standing"],
)

_SAY_AGAIN_SECONDS = 60.0
# After an upgrade years of days may wait for folding: each round folds for this long at most.
_LONGEST_FOLD_SECONDS = 5.0
# One folded day is counted again at this interval: ten years take less than three days.
_RECOUNT_SECONDS = 60.0


class LedgerMonitor:
    """Runs in one worker at a time; only that worker shows the gauges."""

    def __init__(self, *, leases: NamedLeaseRows, ledger: LedgerRows, interval_seconds: float = 15.0) -> None:
        self._leases = leases
        self._ledger = ledger
        self._interval_seconds = interval_seconds
        self._say_due = 0.0
        self._recount_due = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Count until `stopping` is set."""
        await run_as_leader(
            "ledger",
            leases=self._leases,
            interval_seconds=self._interval_seconds,
            stopping=stopping,
            count=self._count,
            hide=SESSIONS.clear,
            failed=lambda error: log.error("ledger_failed", **describe_failure(error)),
        )

    async def _count(self) -> None:
        try:
            await self._fold()
        except Exception as error:  # noqa: BLE001 - without folding the count is slower and as right
            log.error("ledger_fold_failed", **describe_failure(error))
        ledger = await self._ledger.count(None)
        for name in Ledger.__struct_fields__:
            SESSIONS.labels(name).set(getattr(ledger, name))
        if ledger.lost and time.monotonic() >= self._say_due:
            log.error("ledger_lost", lost=ledger.lost)
            self._say_due = time.monotonic() + _SAY_AGAIN_SECONDS

    async def _fold(self) -> None:
        began = time.monotonic()
        while await self._ledger.fold() and time.monotonic() < began + _LONGEST_FOLD_SECONDS:
            pass
        if time.monotonic() >= self._recount_due:
            day = await self._ledger.recount()
            self._recount_due = time.monotonic() + _RECOUNT_SECONDS
            if day is not None:
                log.error("ledger_day_mended", day=day.isoformat())
