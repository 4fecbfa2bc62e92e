"""How much memory a process holds, and has held at most."""

import asyncio

import psutil

from tests.support.rig import Running


class ResidentMemory:
    """The resident memory of a process, in MB, and its peak, looked at every `look_seconds`."""

    def __init__(self, service: Running, *, look_seconds: float) -> None:
        self._process = psutil.Process(service.process.pid)
        self._look_seconds = look_seconds
        self.peak = self.now()

    def now(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            await asyncio.sleep(self._look_seconds)
