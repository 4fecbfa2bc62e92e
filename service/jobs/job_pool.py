"""Runs leased work, so many at a time; what finds no room stays due in its row."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.logging import failure

log = structlog.get_logger()

JOBS = Gauge("ekabridge_lane_jobs", "Jobs that run, by lane.", ("lane",))
CAPACITY = Gauge("ekabridge_lane_capacity", "Jobs that can run at once, by lane.", ("lane",))
Job = TypeVar("Job")

# The sweep looks every second anyway.
_LONGEST_ALARM_SECONDS = 5.0
_SHORTEST_ALARM_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class HolderQuota(Generic[Job]):
    """How much of a lane one holder may take, so that one whose calls hang leaves room for the others.

    `holder_of` names the account or the tenant of a job; None: this share does not limit the job.
    `places` are those that a holder may have before its rows are passed over; a claim takes `at_a_time`, so
    that a holder may come to have that many more.
    """

    holder_of: Callable[[Job], str | None]
    places: int
    at_a_time: int


class JobPool(Generic[Job]):
    """Claims due rows and runs each in a task of its own, up to `size` at once."""

    def __init__(
        self,
        name: str,
        *,
        size: int,
        claim: Callable[[SessionId | None, int], Awaitable[list[Job]]],
        run: Callable[[Job], Awaitable[None]],
        next_slot_seconds: Callable[[], Awaitable[float | None]] | None = None,
        shares: Sequence[HolderQuota[Job]] = (),
    ) -> None:
        self._name = name
        self._size = size
        CAPACITY.labels(name).set(size)
        self._jobs = JOBS.labels(name)
        self._claim = claim
        self._run = run
        self._tasks: set[asyncio.Task[None]] = set()
        self._wakes: set[asyncio.Task[None]] = set()
        self._claiming = asyncio.Lock()
        self._is_closing = False
        self._has_more = False
        # The holders at their share when a claim last found less than it asked for: until one of them leaves
        # its share, another claim finds nothing. None: the last claim was cut short by its limit.
        self._exhausted_beside: frozenset[str] | None = None
        # A lane whose rows wait for one another: what ends may have made room for what was passed over.
        self._next_slot_seconds = next_slot_seconds
        self._alarm: asyncio.TimerHandle | None = None
        self._shares: tuple[tuple[HolderQuota[Job], Counter[str]], ...] = tuple(
            (share, Counter()) for share in shares
        )

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return len(self._tasks)

    async def wake(self, session_id: SessionId | None) -> None:
        """Claim and start what is due, of one session or of any; without room, remember it."""
        async with self._claiming:
            while True:
                room = self._size - len(self._tasks)
                if room <= 0 or self._is_closing:
                    self._has_more = True
                    self._exhausted_beside = None
                    return
                # A little at a time: one claim may give all that it takes to one holder.
                room = min([room, *(share.at_a_time for share, _ in self._shares)])
                beside = self.holders_at_quota()
                jobs = await self._claim(session_id, room)
                if len(jobs) == room:
                    self._exhausted_beside = None
                elif session_id is None:
                    self._exhausted_beside = frozenset(beside)
                if len(jobs) == room or self._next_slot_seconds is not None or self.holders_at_quota():
                    self._has_more = True
                for job in jobs:
                    self._start(job)
                if not self._shares or len(jobs) < room:
                    break
            if self._next_slot_seconds is not None and len(jobs) < room:
                self._set_alarm(await self._next_slot_seconds())

    def holders_at_quota(self) -> list[str]:
        """Return the holders that have their share of the places: what is theirs waits."""
        return [
            holder
            for share, busy_of in self._shares
            for holder, busy in busy_of.items()
            if busy >= share.places
        ]

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._guarded(job))
        self._tasks.add(task)
        self._jobs.inc()
        for share, busy_of in self._shares:
            holder = share.holder_of(job)
            if holder is not None:
                busy_of[holder] += 1
                task.add_done_callback(partial(_leave, busy_of, holder))
        task.add_done_callback(self._finished)

    def _set_alarm(self, seconds: float | None) -> None:
        """Look again when the next slot comes, without a place of the lane waiting for it."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if seconds is not None and seconds < _LONGEST_ALARM_SECONDS and not self._is_closing:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(seconds, _SHORTEST_ALARM_SECONDS), self._wake_soon)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._jobs.dec()
        if self._has_more and not self._is_closing and self._may_find_more():
            self._has_more = False
            self._wake_soon()

    def _may_find_more(self) -> bool:
        if self._next_slot_seconds is not None or self._exhausted_beside is None:
            return True
        return not self._exhausted_beside.issubset(self.holders_at_quota())

    def _wake_soon(self) -> None:
        if not self._is_closing:
            wake = asyncio.create_task(self._wake_any())
            self._wakes.add(wake)
            wake.add_done_callback(self._wakes.discard)

    async def _wake_any(self) -> None:
        try:
            await self.wake(None)
        except Exception as error:  # noqa: BLE001 - a process boundary; the sweep will look again
            log.warning("claim_failed", lane=self._name, **failure(error))

    async def _guarded(self, job: Job) -> None:
        try:
            await self._run(job)
        except StoreUnavailable:
            log.warning("job_interrupted", lane=self._name, reason="store_unavailable")
        except Exception as error:  # noqa: BLE001 - a process boundary: the lease ends, and the row is due again
            log.error("job_failed", lane=self._name, **failure(error))

    def close(self) -> None:
        """Claim nothing more."""
        self._is_closing = True
        self._set_alarm(None)

    async def drain(self, seconds: float) -> None:
        """Claim nothing more and wait for what runs; what is not done by then is cancelled."""
        self.close()
        deadline = asyncio.get_running_loop().time() + seconds
        async with self._claiming:
            pass  # what is being claimed at this moment is started, and waited for with the rest
        await asyncio.gather(*self._wakes)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline - asyncio.get_running_loop().time())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _leave(busy_of: Counter[str], holder: str, _: asyncio.Task[None]) -> None:
    busy_of[holder] -= 1
    if not busy_of[holder]:
        del busy_of[holder]
