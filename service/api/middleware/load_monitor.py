"""How far behind its work a process is: what is in hand waits, and so would all that is let in now."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MIN_SHARE = 0.25


class LoadMonitor:
    """What share of its places a process should give away, from how late its event loop and its database are.

    It falls by a quarter with each look that finds one of them late, to a quarter at the least, so that what
    is in hand is answered in time by a slow machine, too; it rises again within a few seconds.
    """

    look_seconds = 0.25
    # A pause of the machine is one look: it costs little and is soon over.
    late_seconds = 0.5

    def __init__(self) -> None:
        self.share = 1.0
        self._sources: list[Callable[[], float]] = []

    def listen_to(self, late_seconds: Callable[[], float]) -> None:
        """Ask this, too, at each look: how long something was waited for since the last one."""
        self._sources.append(late_seconds)

    def note(self, late_seconds: float) -> None:
        """Take in how late the latest of all was."""
        if late_seconds > self.late_seconds:
            self.share = max(MIN_SHARE, self.share * 0.75)
        else:
            self.share = min(1.0, self.share + 0.05)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look at the loop for as long as the process serves."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.look_seconds
            await asyncio.sleep(self.look_seconds)
            self.note(max(loop.time() - due, *(source() for source in self._sources), 0.0))
