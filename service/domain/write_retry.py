"""Writes the outcome of a call while its lease lasts, even if the database is away for some seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.domain.clock import Clock
from service.domain.errors import StoreUnavailable

T = TypeVar("T")

# A restart of PostgreSQL takes less time, and leases last twice as long. A failing try takes time as well,
# so the deadline counts beside the number of tries.
_PATIENCE_SECONDS = 20.0
_WAIT_SECONDS = 0.5
_TRIES = int(_PATIENCE_SECONDS / _WAIT_SECONDS)


async def write_until_stored(write: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Repeat a write until it succeeds; without its outcome, another worker would make the call again.

    A lease fences `write`: the database ignores a repeat of a commit whose answer was lost, and a write that
    comes too late. Raises StoreUnavailable after 20 s.
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
