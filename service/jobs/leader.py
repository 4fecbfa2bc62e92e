"""Runs a periodic count in one process at a time: the one that holds the lease of its name."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease
from service.jobs.sweep import pause
from service.store.named_leases import NamedLeaseRows

# A pause is at least twenty times the last count, so that counting uses at most 1/20 of one connection.
_PAUSE_FACTOR = 20.0


async def run_as_leader(
    name: str,
    *,
    leases: NamedLeaseRows,
    interval_seconds: float,
    stopping: asyncio.Event,
    count: Callable[[], Awaitable[None]],
    hide: Callable[[], None],
    failed: Callable[[Exception], None],
) -> None:
    """Count at an interval until `stopping` is set, whenever this process holds the lease `name`.

    `hide` removes the gauges as soon as another process counts or PostgreSQL is unreachable: a gauge that no
    longer changes would look like a current figure.
    """
    lease, wait = Lease(uuid4()), interval_seconds
    while not stopping.is_set():
        began = time.monotonic()
        try:
            if await leases.acquire(name, lease, 2 * wait):
                await count()
            else:
                hide()
        except StoreUnavailable:
            hide()
        except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
            hide()
            failed(error)
        wait = max(interval_seconds, _PAUSE_FACTOR * (time.monotonic() - began))
        await pause(stopping, wait)
    hide()
