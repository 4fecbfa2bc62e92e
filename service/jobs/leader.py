"""Counting again and again, in one process at a time, never for long."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease
from service.jobs.sweep import pause
from service.store.leases import LeaseRows

# However many rows there are, counting takes no more than a twentieth of one connection's time.
_SHARE = 20.0


async def run_as_leader(
    name: str,
    *,
    leases: LeaseRows,
    interval_seconds: float,
    stopping: asyncio.Event,
    count: Callable[[], Awaitable[None]],
    hide: Callable[[], None],
    failed: Callable[[Exception], None],
) -> None:
    """Count until told to stop, while the lease of this name is ours; a database that is away is waited for.

    `hide` takes the figures back when somebody else counts, or nobody can: one that stands still would look
    like a truth.
    """
    lease, wait = Lease(uuid4()), interval_seconds
    while not stopping.is_set():
        began = time.monotonic()
        try:
            if await leases.take(name, lease, 2 * wait):
                await count()
            else:
                hide()
        except StoreUnavailable:
            hide()
        except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
            hide()
            failed(error)
        wait = max(interval_seconds, _SHARE * (time.monotonic() - began))
        await pause(stopping, wait)
    hide()
