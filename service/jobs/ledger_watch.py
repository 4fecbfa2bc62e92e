"""Counts the ledger again and again: gauges for whoever watches, an error as soon as a session is lost."""

import asyncio
import time
from uuid import uuid4

import structlog
from prometheus_client import Gauge

from schemas.ledger import Ledger
from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease
from service.jobs.sweep import pause
from service.logs import failure
from service.store.coordination import LeaseRows
from service.store.ledger import LedgerRows

log = structlog.get_logger()

SESSIONS = Gauge(
    "ekabridge_ledger_sessions",
    "Sessions of all tenants that were ended or expired, by how they stand; lost is always 0",
    ["standing"],
)

_SAY_AGAIN_SECONDS = 60.0
# However many sessions there are, counting takes no more than a twentieth of one connection's time.
_SHARE = 20.0


class LedgerWatch:
    """Runs beside the sweep, in one process at a time: only that one shows the gauges."""

    def __init__(self, *, leases: LeaseRows, ledger: LedgerRows, interval_seconds: float = 15.0) -> None:
        self._leases = leases
        self._ledger = ledger
        self._interval_seconds = interval_seconds
        self._lease = Lease(uuid4())
        self._say_due = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Count until told to stop; a database that is away is waited for."""
        wait = self._interval_seconds
        while not stopping.is_set():
            began = time.monotonic()
            try:
                if await self._leases.take("ledger", self._lease, 2 * wait):
                    self._show(await self._ledger.count(None))
                else:
                    SESSIONS.clear()
            except StoreUnavailable:
                SESSIONS.clear()  # a figure that stands still would look like a truth
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
                SESSIONS.clear()
                log.error("ledger_failed", **failure(error))
            wait = max(self._interval_seconds, _SHARE * (time.monotonic() - began))
            await pause(stopping, wait)
        SESSIONS.clear()

    def _show(self, ledger: Ledger) -> None:
        for name in Ledger.__struct_fields__:
            SESSIONS.labels(name).set(getattr(ledger, name))
        if ledger.lost and time.monotonic() >= self._say_due:
            log.error("ledger_lost", lost=ledger.lost)
            self._say_due = time.monotonic() + _SAY_AGAIN_SECONDS
