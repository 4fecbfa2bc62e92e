"""The memory that large things of a process may take, counted before they are held.

Each kind has a part of its own, so that none takes another's: bodies of audio, answers of EkaScribe, answers
to clients, bodies of deliveries. What is small is not counted: how many small things there are is bounded
where they come from.
With what a process takes at rest the parts stay under 400 MB (docs/capacity.md), half of its container's.
"""

import asyncio

UPLOADS_BYTES = 64 * 1024 * 1024
VENDOR_ANSWERS_BYTES = 96 * 1024 * 1024
CLIENT_ANSWERS_BYTES = 96 * 1024 * 1024
DELIVERIES_BYTES = 96 * 1024 * 1024


class MemoryBudget:
    """One part of the memory, in bytes; who finds none left waits a moment, in the order of coming."""

    def __init__(
        self,
        max_bytes: int,
        *,
        patience_seconds: float,
        vain_seconds: float = 0.0,
    ) -> None:
        """`vain_seconds`: for so long nobody waits when somebody has just waited for nothing."""
        self.max_bytes = max_bytes
        self._vain_seconds = vain_seconds
        self.patience_seconds = patience_seconds
        self.taken_bytes = self.peak_bytes = 0
        self._vain_until = 0.0
        self._line: dict[asyncio.Future[bool], int] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    async def take(self, size: int) -> bool:
        """Take so many bytes, if there are any in time."""
        if size > self.max_bytes:
            return False
        if not self._line and self.taken_bytes + size <= self.max_bytes:
            self._count(size)
            return True
        loop = asyncio.get_running_loop()
        if loop.time() < self._vain_until:
            return False
        granted: asyncio.Future[bool] = loop.create_future()
        self._line[granted] = size
        timer = loop.call_later(self.patience_seconds, self._refuse, granted)
        try:
            return await granted
        except asyncio.CancelledError:
            if self._line.pop(granted, None) is None and not granted.cancelled() and granted.result():
                self.give_back(size)
            self._grant()
            raise
        finally:
            timer.cancel()

    def give_back(self, size: int) -> None:
        """Give them back, to whoever has waited longest."""
        self.taken_bytes -= size
        self._grant()

    def _count(self, size: int) -> None:
        self.taken_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.taken_bytes)

    def _grant(self) -> None:
        for granted, size in list(self._line.items()):
            if self.taken_bytes + size > self.max_bytes:
                return
            del self._line[granted]
            if not granted.done():
                self._count(size)
                granted.set_result(True)

    def _refuse(self, granted: "asyncio.Future[bool]") -> None:
        self._line.pop(granted, None)
        if not granted.done():
            granted.set_result(False)
            self._vain_until = asyncio.get_running_loop().time() + self._vain_seconds
        self._grant()


class MemoryReservation:
    """So many bytes of a part, until whoever holds this forgets it."""

    __slots__ = ("_memory", "_size")

    def __init__(self, memory: MemoryBudget, size: int) -> None:
        self._memory = memory
        self._size = size

    def shrink(self, size: int) -> None:
        """Give back what is more than so many bytes."""
        if size < self._size:
            self._memory.give_back(self._size - size)
            self._size = size

    def __del__(self) -> None:
        self._memory.give_back(self._size)
