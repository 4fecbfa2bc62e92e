"""What a call brought is written down while its lease stands, however the database blinks meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.domain.errors import StoreUnavailable
from service.domain.ports import Clock

T = TypeVar("T")

# A restart of PostgreSQL takes less, and leases last twice as long. A try that fails may take its time, too.
_PATIENCE_SECONDS = 20.0
_WAIT_SECONDS = 0.5
_TRIES = int(_PATIENCE_SECONDS / _WAIT_SECONDS)


async def write_until_stored(write: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Write again until it is written: otherwise a call that was made and answered would be made once more.

    `write` is fenced by a lease, so that a commit whose answer was lost is not done twice, nor one that comes
    too late. Raises StoreUnavailable after 20 s.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_SECONDS
    for _ in range(_TRIES):
        try:
            return await write()
        except StoreUnavailable:
            if loop.time() >= deadline:
                raise
        await clock.sleep(_WAIT_SECONDS)
    return await write()
