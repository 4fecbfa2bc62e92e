"""Budgets for the memory that large objects of a process use, reserved before the objects are held.

Each kind has a budget of its own, so that no kind can starve another: bodies of audio, answers of EkaScribe,
answers to clients, bodies of deliveries. Small objects are not counted, because the code that makes them
limits their number. The budgets and the memory of an idle process together stay under 400 MB
(docs/capacity.md), half of the container's limit.
"""

import asyncio

UPLOADS_BYTES = 64 * 1024 * 1024
VENDOR_ANSWERS_BYTES = 96 * 1024 * 1024
CLIENT_ANSWERS_BYTES = 96 * 1024 * 1024
DELIVERIES_BYTES = 96 * 1024 * 1024


class MemoryBudget:
    """A number of bytes that callers acquire and release; callers wait in a first-in, first-out queue."""

    def __init__(
        self,
        max_bytes: int,
        *,
        patience_seconds: float,
        cooldown_seconds: float = 0.0,
    ) -> None:
        """`patience_seconds` limits a wait; after one in vain no caller waits for `cooldown_seconds`."""
        self.max_bytes = max_bytes
        self._cooldown_seconds = cooldown_seconds
        self.patience_seconds = patience_seconds
        self.used_bytes = self.peak_bytes = 0
        self._cooldown_until = 0.0
        self._queue: dict[asyncio.Future[bool], int] = {}

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue)

    async def acquire(self, size: int) -> bool:
        """Reserve bytes, waiting if necessary; return whether they were free in time."""
        if size > self.max_bytes:
            return False
        if not self._queue and self.used_bytes + size <= self.max_bytes:
            self._count(size)
            return True
        loop = asyncio.get_running_loop()
        if loop.time() < self._cooldown_until:
            return False
        granted: asyncio.Future[bool] = loop.create_future()
        self._queue[granted] = size
        timer = loop.call_later(self.patience_seconds, self._refuse, granted)
        try:
            return await granted
        except asyncio.CancelledError:
            if self._queue.pop(granted, None) is None and not granted.cancelled() and granted.result():
                self.release(size)
            self._grant()
            raise
        finally:
            timer.cancel()

    def release(self, size: int) -> None:
        """Free bytes, and grant them to the caller that has waited longest."""
        self.used_bytes -= size
        self._grant()

    def _count(self, size: int) -> None:
        self.used_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def _grant(self) -> None:
        for granted, size in list(self._queue.items()):
            if self.used_bytes + size > self.max_bytes:
                return
            del self._queue[granted]
            if not granted.done():
                self._count(size)
                granted.set_result(True)

    def _refuse(self, granted: "asyncio.Future[bool]") -> None:
        self._queue.pop(granted, None)
        if not granted.done():
            granted.set_result(False)
            self._cooldown_until = asyncio.get_running_loop().time() + self._cooldown_seconds
        self._grant()


class MemoryReservation:
    """Acquired bytes of a budget; the garbage collector releases them together with this object."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: MemoryBudget, size: int) -> None:
        self._memory = memory
        self._size = size

    def shrink(self, size: int) -> None:
        """Release the bytes beyond `size`."""
        if size < self._size:
            self._memory.release(self._size - size)
            self._size = size

    def __del__(self) -> None:
        self._memory.release(self._size)
