"""Carries out what the plan says goes wrong, and mends it again."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from service.sandbox.vendor.faults import Fault, FaultBook
from tests.tools.chaos.doors import release
from tests.tools.chaos.hospital import Hospital, Slot
from tests.tools.chaos.oracle import Cause
from tests.tools.chaos.plan import FAULTS, POINTS, Disturbance


class Disturber:
    """Carries a plan out; whatever it has broken it mends again, at the latest by `calm`."""

    def __init__(self, hospital: Hospital, plan: list[Disturbance], say: Callable[[str], None]) -> None:
        self.causes: list[Cause] = []
        self.counts: Counter[str] = Counter()
        self._hospital = hospital
        self._plan = plan
        self._say = say
        self._tasks: list[asyncio.Task[None]] = []
        self._mending: asyncio.Task[None] | None = None
        self._database = asyncio.Lock()
        self._redis = asyncio.Lock()

    async def run(self) -> None:
        """Do what the plan says, when it says so."""
        began = time.monotonic()
        self._mending = asyncio.create_task(self._mend_killed())
        for disturbance in self._plan:
            await asyncio.sleep(max(0.0, began + disturbance.at - time.monotonic()))
            self._tasks.append(asyncio.create_task(self._disturb(disturbance)))

    async def calm(self) -> None:
        """Wait until everything is mended; then every process runs, and nothing misbehaves."""
        self._hospital.watch.disarm()
        await asyncio.gather(*self._tasks)
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait([self._mending])
        for book in (self._hospital.vendor.faults, self._hospital.emr.book):
            book.clear()
        for name in self._hospital.slots:
            await self._hospital.start(name)

    async def _mend_killed(self) -> None:
        """Start again what ended at a crash point, after a moment."""
        while True:
            await asyncio.sleep(0.5)
            for slot in self._hospital.slots.values():
                if slot.lives[-1].ended_by == "kill" and not slot.is_running:
                    await self._hospital.start(slot.name)

    async def _disturb(self, disturbance: Disturbance) -> None:
        self._say(f"{disturbance.at:7.1f} s  {disturbance.kind} {disturbance.target} {disturbance.detail}")
        self.counts[disturbance.kind] += 1
        start, action = time.time(), self._actions()[disturbance.kind]
        await action(disturbance)
        for slot in self._touched(disturbance):
            self.causes.append(Cause(disturbance.kind, start, time.time(), slot))

    def _touched(self, disturbance: Disturbance) -> list[str | None]:
        """Whose records it may have kept from being written: nobody's, one process's, everybody's (None)."""
        if disturbance.kind == "postgresql: hang":
            return [disturbance.target]
        is_database = disturbance.kind in {"postgresql: restart", "postgresql: crash", "postgresql: cut"}
        return [None] if is_database or disturbance.kind == "clock: postgresql" else []

    def _actions(self) -> dict[str, Callable[[Disturbance], Awaitable[None]]]:
        return {
            "kill": self._kill,
            "kill at a point": self._kill_at_point,
            "restart": self._restart,
            "redis: flush": self._flush_redis,
            "redis: stop": self._stop_redis,
            "redis: hang": self._hang_redis,
            "postgresql: restart": self._restart_database,
            "postgresql: crash": self._restart_database,
            "postgresql: cut": self._cut_database,
            "postgresql: slow commits": self._slow_commits,
            "postgresql: hang": self._hang_database,
            "vendor: fault": self._vendor_fault,
            "vendor: tokens expire": self._expire_tokens,
            "webhooks: lost": self._lose_webhooks,
            "webhooks: doubled": self._double_webhooks,
            "webhooks: late": self._delay_webhooks,
            "emr: fault": self._emr_fault,
            "clock: process": self._shift_process,
            "clock: postgresql": self._shift_database,
        }

    # -- Our processes ----------------------------------------------------------------------------

    def _slot(self, disturbance: Disturbance) -> Slot:
        return self._hospital.slots[disturbance.target]

    async def _kill(self, disturbance: Disturbance) -> None:
        slot = self._slot(disturbance)
        slot.end(signal.SIGKILL, "kill")
        await self._hospital.gone(slot.name)
        await asyncio.sleep(disturbance.seconds)
        await self._hospital.start(slot.name)

    async def _kill_at_point(self, disturbance: Disturbance) -> None:
        self._hospital.watch.arm(POINTS[int(disturbance.detail)])

    async def _restart(self, disturbance: Disturbance) -> None:
        slot = self._slot(disturbance)
        async with slot.starting:  # one that is still starting does not know the signal yet
            slot.end(signal.SIGTERM, "stop")
        await self._hospital.gone(slot.name)
        await self._hospital.start(slot.name)

    async def _shift_process(self, disturbance: Disturbance) -> None:
        clocks = self._hospital.servers.clocks
        clocks.shift(disturbance.target, float(disturbance.detail))
        await asyncio.sleep(disturbance.seconds)
        clocks.shift(disturbance.target, 0.0)

    # -- Redis ------------------------------------------------------------------------------------

    async def _flush_redis(self, _: Disturbance) -> None:
        async with self._redis, Redis(port=self._hospital.servers.redis_port) as redis:
            await redis.flushall()

    async def _stop_redis(self, disturbance: Disturbance) -> None:
        async with self._redis:
            await asyncio.to_thread(self._hospital.servers.stop_redis)
            await asyncio.sleep(disturbance.seconds)
            await asyncio.to_thread(self._hospital.servers.start_redis)

    async def _hang_redis(self, disturbance: Disturbance) -> None:
        proxy = self._slot(disturbance).redis
        proxy.passing.clear()
        await asyncio.sleep(disturbance.seconds)
        proxy.passing.set()

    # -- PostgreSQL -------------------------------------------------------------------------------

    async def _restart_database(self, disturbance: Disturbance) -> None:
        servers = self._hospital.servers
        async with self._database:
            await asyncio.to_thread(servers.stop_database, at_once=disturbance.kind == "postgresql: crash")
            await asyncio.sleep(disturbance.seconds / 2)
            await asyncio.to_thread(servers.start_database)

    async def _cut_database(self, _: Disturbance) -> None:
        for slot in self._hospital.slots.values():
            slot.database.cut()

    async def _slow_commits(self, disturbance: Disturbance) -> None:
        proxy = self._slot(disturbance).database
        proxy.commit_delay_seconds = 0.3
        await asyncio.sleep(disturbance.seconds)
        proxy.commit_delay_seconds = 0.0

    async def _hang_database(self, disturbance: Disturbance) -> None:
        proxy = self._slot(disturbance).database
        proxy.passing.clear()
        await asyncio.sleep(disturbance.seconds)
        proxy.passing.set()

    async def _shift_database(self, disturbance: Disturbance) -> None:
        """An hour ahead ends every lease; half a minute back makes each longer. It stays so."""
        if self._hospital.servers.clocks.why_not is None:
            async with self._database:
                self._hospital.servers.shift_clock(float(disturbance.detail))

    # -- The others -------------------------------------------------------------------------------

    async def _play_fault(self, book: FaultBook, disturbance: Disturbance) -> None:
        fault = book.add(Fault(path_regex=disturbance.target, times=None, **FAULTS[disturbance.detail]))
        await asyncio.sleep(disturbance.seconds)
        book.faults.remove(fault)
        if fault.mode == "hang":
            release(book)

    async def _vendor_fault(self, disturbance: Disturbance) -> None:
        await self._play_fault(self._hospital.vendor.faults, disturbance)

    async def _emr_fault(self, disturbance: Disturbance) -> None:
        await self._play_fault(self._hospital.emr.book, disturbance)

    async def _expire_tokens(self, _: Disturbance) -> None:
        self._hospital.vendor.tokens.expire(static=False)

    async def _lose_webhooks(self, disturbance: Disturbance) -> None:
        self._hospital.vendor.settings.webhooks_enabled = False
        await asyncio.sleep(disturbance.seconds)
        self._hospital.vendor.settings.webhooks_enabled = True

    async def _double_webhooks(self, disturbance: Disturbance) -> None:
        self._hospital.vendor.settings.webhook_copies = 5
        await asyncio.sleep(disturbance.seconds)
        self._hospital.vendor.settings.webhook_copies = 1

    async def _delay_webhooks(self, disturbance: Disturbance) -> None:
        self._hospital.vendor.settings.webhook_delay_seconds = 3.0
        await asyncio.sleep(disturbance.seconds)
        self._hospital.vendor.settings.webhook_delay_seconds = 0.0
