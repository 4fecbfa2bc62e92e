"""A semaphore that gives its permits to holders in turns: many waiters of one holder delay no other."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """Gives `permits` at once; a free permit goes to the holder that has waited longest for its turn."""

    def __init__(self, permits: int) -> None:
        self._free = permits
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def permit(self, holder: Hashable) -> AsyncIterator[None]:
        """Hold a permit inside the block."""
        await self._acquire(holder)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, holder: Hashable) -> None:
        if self._free and not self._queues:
            self._free -= 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(holder, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # the permit was granted in the same moment
                self._release()
            raise

    def _release(self) -> None:
        while self._queues:
            holder, queue = self._queues.popitem(last=False)
            granted = queue.popleft()
            if queue:
                self._queues[holder] = queue
            if not granted.done():
                granted.set_result(None)
                return
        self._free += 1
