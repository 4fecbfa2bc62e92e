"""Counts the ledger again and again: gauges for whoever watches, an error as soon as a session is lost."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from schemas.ledger import Ledger
from service.jobs.leader import run_as_leader
from service.observability.logging import failure
from service.store.leases import LeaseRows
from service.store.ledger import LedgerRows

log = structlog.get_logger()

SESSIONS = Gauge(
    "ekabridge_ledger_sessions",
    "Sessions of all tenants that were ended or expired, by how they stand; lost is always 0",
    ["standing"],
)

_SAY_AGAIN_SECONDS = 60.0
# After an upgrade there are years to fold: a little at a time.
_LONGEST_FOLD_SECONDS = 5.0
# Ten years are looked through again in less than three days.
_RECOUNT_SECONDS = 60.0


class LedgerMonitor:
    """Runs beside the sweep, in one process at a time: only that one shows the gauges."""

    def __init__(self, *, leases: LeaseRows, ledger: LedgerRows, interval_seconds: float = 15.0) -> None:
        self._leases = leases
        self._ledger = ledger
        self._interval_seconds = interval_seconds
        self._say_due = 0.0
        self._recount_due = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Count until told to stop; a database that is away is waited for."""
        await run_as_leader(
            "ledger",
            leases=self._leases,
            interval_seconds=self._interval_seconds,
            stopping=stopping,
            count=self._count,
            hide=SESSIONS.clear,
            failed=lambda error: log.error("ledger_failed", **failure(error)),
        )

    async def _count(self) -> None:
        try:
            await self._fold()
        except Exception as error:  # noqa: BLE001 - without it the count takes longer, and is as right
            log.error("ledger_fold_failed", **failure(error))
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
