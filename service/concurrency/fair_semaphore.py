"""A semaphore that gives its permits to holders in turns: many waiters of one holder delay no other."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSemaphore:
    """Gives `permits` at once; a free permit goes to the holder that has waited longest for its turn.

    A holder has `max_per_holder` permits at most; None as the holder stands for many, and has no such limit.
    """

    def __init__(self, permits: int, *, max_per_holder: int | None = None) -> None:
        self._free = permits
        self._max_per_holder = permits if max_per_holder is None else max_per_holder
        self._held: Counter[Hashable] = Counter()
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def permit(self, holder: Hashable, *, max_wait_seconds: float | None = None) -> AsyncIterator[None]:
        """Hold a permit inside the block. Raises TimeoutError if none is granted in `max_wait_seconds`."""
        # While a permit is free, only holders at their limit wait. A time-out costs more than a free permit.
        if self._free and self._may_have_more(holder):
            self._take(holder)
        else:
            async with asyncio.timeout(max_wait_seconds):
                await self._wait(holder)
        try:
            yield
        finally:
            self._release(holder)

    async def _wait(self, holder: Hashable) -> None:
        """Wait for a permit in the holder's turn."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(holder, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # the permit was granted in the same moment
                self._release(holder)
            raise

    def _may_have_more(self, holder: Hashable) -> bool:
        return holder is None or self._held[holder] < self._max_per_holder

    def _take(self, holder: Hashable) -> None:
        self._free -= 1
        self._held[holder] += 1

    def _release(self, holder: Hashable) -> None:
        self._free += 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]
        for waiting in list(self._queues):
            if not self._free:
                return
            if self._may_have_more(waiting):
                self._grant(waiting)

    def _grant(self, holder: Hashable) -> None:
        """Give a free permit to the first of a holder's waiters that still waits; its turn is over."""
        queue = self._queues.pop(holder)
        while queue:
            granted = queue.popleft()
            if not granted.done():
                self._take(holder)
                granted.set_result(None)
                break
        if queue:
            self._queues[holder] = queue
