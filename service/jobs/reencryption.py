"""Runs the passes of re-encryption in one worker, with a quarter of one connection's time.

This module decides the pace and the worker, and shows the gauges. A batch itself is read and replaced in
service/store/reencryption.py.
"""

import asyncio
import time
from uuid import uuid4

import structlog
from prometheus_client import Gauge

from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease
from service.jobs.sweep import pause
from service.observability.logging import describe_failure
from service.store.encryption import Keyring
from service.store.encryption_keys import EncryptionKeyRows
from service.store.named_leases import NamedLeaseRows
from service.store.reencryption import ReencryptionRows

log = structlog.get_logger()

VALUES = Gauge(
    "ekabridge_encryption_values",
    "About how many sealed values are under the first of ENCRYPTION_KEYS, under others, or missing ones",
    ["key"],
)
UNREADABLE = Gauge(
    "ekabridge_encryption_unreadable_values", "Values that the last walk over each table could not open"
)

_LEASE_SECONDS = 15.0
_LOOK_SECONDS = 5.0
_SHOW_SECONDS = 60.0
# After each batch the pass rests three times as long as the batch took: requests come first.
_REST = 3.0
_SHORTEST_REST_SECONDS = 0.005


class Reencryption:
    """Re-encrypts and shows the gauges, in one worker at a time: the one that holds the lease."""

    def __init__(
        self,
        *,
        leases: NamedLeaseRows,
        keys: EncryptionKeyRows,
        reencryption: ReencryptionRows,
        keyring: Keyring,
    ) -> None:
        self._leases = leases
        self._keys = keys
        self._reencryption = reencryption
        self._keyring = keyring
        self._lease = Lease(uuid4())
        self._lease_due = 0.0
        self._show_due = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Run the passes that are due until `stopping` is set; without PostgreSQL, try again later."""
        while not stopping.is_set():
            rest = _LOOK_SECONDS
            try:
                if await self._has_lease():
                    await self._show()
                    began = time.monotonic()
                    if await self._reencryption.step():
                        rest = max(_SHORTEST_REST_SECONDS, _REST * (time.monotonic() - began))
                else:
                    _clear()
            except StoreUnavailable:
                self._lose()
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round follows
                self._lose()
                log.error("resealing_failed", **describe_failure(error))
            await pause(stopping, rest)
        _clear()

    async def _has_lease(self) -> bool:
        if time.monotonic() < self._lease_due:
            return True
        if not await self._leases.acquire("resealing", self._lease, _LEASE_SECONDS):
            return False
        self._lease_due = time.monotonic() + _LEASE_SECONDS / 3
        return True

    def _lose(self) -> None:
        self._lease_due = self._show_due = 0.0
        _clear()  # a gauge that no longer changes would look like a measurement

    async def _show(self) -> None:
        if time.monotonic() < self._show_due:
            return
        held = dict.fromkeys(("first", "old", "missing"), 0)
        for key_id, counts in (await self._keys.about()).items():
            is_ours = key_id in self._keyring.key_ids
            state = "first" if key_id == self._keyring.first else "old" if is_ours else "missing"
            held[state] += counts.total()
        for state, values in held.items():
            VALUES.labels(state).set(values)
        UNREADABLE.set(sum(table_pass.unreadable for table_pass in await self._reencryption.passes()))
        self._show_due = time.monotonic() + _SHOW_SECONDS


def _clear() -> None:
    VALUES.clear()
    UNREADABLE.set(0)
