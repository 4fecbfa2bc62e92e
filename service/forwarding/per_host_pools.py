"""Keeps a connection pool for each address, so that calls to one endpoint never wait for another endpoint.

For each request httpx2 searches every connection of a pool; with a hundred endpoints in one pool the search
costs more than the call.
"""

import time
from collections.abc import Callable
from types import TracebackType

import httpcore2

_Address = tuple[bytes, bytes, int | None, bytes]


class PoolsByAddress(httpcore2.AsyncConnectionPool):
    """Replaces a single pool; each address gets its own pool, which is closed after a long idle time."""

    def __init__(self, make: Callable[[], httpcore2.AsyncConnectionPool], *, idle_seconds: float) -> None:
        super().__init__()
        self._make = make
        self._idle_seconds = idle_seconds
        self._pools: dict[_Address, tuple[httpcore2.AsyncConnectionPool, float]] = {}
        self._next_look = 0.0

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request through the pool of its address."""
        now = time.monotonic()
        url = request.url
        address = (url.scheme, url.host, url.port, url.target)
        found = self._pools.get(address)
        pool = self._make() if found is None else found[0]
        self._pools[address] = (pool, now)
        if now >= self._next_look:
            self._next_look = now + self._idle_seconds
            await self._close_idle(now - self._idle_seconds)
        return await pool.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every pool."""
        pools, self._pools = self._pools, {}
        for pool, _ in pools.values():
            await pool.aclose()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close every pool."""
        await self.aclose()

    async def _close_idle(self, before: float) -> None:
        idle = [
            address
            for address, (pool, used) in self._pools.items()
            # A pool with a call under way stays, however long ago the call began.
            if used < before and all(each.is_idle() for each in pool.connections)
        ]
        for pool in [self._pools.pop(address)[0] for address in idle]:
            await pool.aclose()
