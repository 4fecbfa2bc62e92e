"""A pool that claims due rows and runs each as a task; rows beyond its size stay due in PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.logging import describe_failure

log = structlog.get_logger()

JOBS = Gauge("ekabridge_lane_jobs", "Jobs that run, by lane.", ("lane",))
CAPACITY = Gauge("ekabridge_lane_capacity", "Jobs that can run at once, by lane.", ("lane",))
Job = TypeVar("Job")

# The sweep looks every second anyway.
_LONGEST_ALARM_SECONDS = 5.0
_SHORTEST_ALARM_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class HolderQuota(Generic[Job]):
    """The part of a pool that one holder may use, so that a holder whose calls hang leaves room for others.

    `holder_of` names the account or the tenant of a job; None means that this quota does not limit the job.
    A holder's rows are passed over while it runs `max_jobs` jobs. A claim takes up to `at_a_time` rows, so
    that it may bring a holder above `max_jobs` by `at_a_time` less one.
    """

    holder_of: Callable[[Job], str | None]
    max_jobs: int
    at_a_time: int


class JobPool(Generic[Job]):
    """Claims due rows and runs each in its own task, up to `size` at once.

    `claim` gets a session or None, a limit, and the holders at their quota, whose rows it passes over.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int,
        claim: Callable[[SessionId | None, int, Collection[str]], Awaitable[list[Job]]],
        run: Callable[[Job], Awaitable[None]],
        next_slot_seconds: Callable[[], Awaitable[float | None]] | None = None,
        quotas: Sequence[HolderQuota[Job]] = (),
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
        # The holders at their quota when a claim last found fewer rows than it asked for: until one of them
        # falls below its quota, another claim finds nothing. None: the last claim was full.
        self._exhausted_beside: frozenset[str] | None = None
        # Given for a pool whose rows wait for one another: a job that ends may make a passed-over row due.
        self._next_slot_seconds = next_slot_seconds
        self._alarm: asyncio.TimerHandle | None = None
        self._quotas: tuple[tuple[HolderQuota[Job], Counter[str]], ...] = tuple(
            (quota, Counter()) for quota in quotas
        )

    @property
    def busy(self) -> int:
        """How many jobs run."""
        return len(self._tasks)

    async def wake(self, session_id: SessionId | None) -> None:
        """Claim and start due rows, of one session or of any; a full pool claims when a job ends."""
        async with self._claiming:
            while True:
                room = self._size - len(self._tasks)
                if room <= 0 or self._is_closing:
                    self._has_more = True
                    self._exhausted_beside = None
                    return
                # In small claims: one claim may give all of its rows to one holder.
                room = min([room, *(quota.at_a_time for quota, _ in self._quotas)])
                at_quota = self.holders_at_quota()
                jobs = await self._claim(session_id, room, at_quota)
                if len(jobs) == room:
                    self._exhausted_beside = None
                elif session_id is None:
                    self._exhausted_beside = frozenset(at_quota)
                if len(jobs) == room or self._next_slot_seconds is not None or self.holders_at_quota():
                    self._has_more = True
                for job in jobs:
                    self._start(job)
                if not self._quotas or len(jobs) < room:
                    break
            has_spare_room = len(jobs) < room
        # After the lock, so that a slow answer holds up no claim.
        if self._next_slot_seconds is not None and has_spare_room:
            self._set_alarm(await self._next_slot_seconds())

    def holders_at_quota(self) -> list[str]:
        """Return the holders that use their quota: their rows wait."""
        return [
            holder
            for quota, busy_of in self._quotas
            for holder, busy in busy_of.items()
            if busy >= quota.max_jobs
        ]

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._guarded(job))
        self._tasks.add(task)
        self._jobs.inc()
        for quota, busy_of in self._quotas:
            holder = quota.holder_of(job)
            if holder is not None:
                busy_of[holder] += 1
                task.add_done_callback(partial(_leave, busy_of, holder))
        task.add_done_callback(self._finished)

    def _set_alarm(self, seconds: float | None) -> None:
        """Claim again when the next row comes due, without a job waiting for it."""
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
            log.warning("claim_failed", lane=self._name, **describe_failure(error))

    async def _guarded(self, job: Job) -> None:
        try:
            await self._run(job)
        except StoreUnavailable:
            log.warning("job_interrupted", lane=self._name, reason="store_unavailable")
        except Exception as error:  # noqa: BLE001 - a process boundary: the lease ends, and the row is due again
            log.error("job_failed", lane=self._name, **describe_failure(error))

    def close(self) -> None:
        """Stop claiming."""
        self._is_closing = True
        self._set_alarm(None)

    async def drain(self, seconds: float) -> None:
        """Stop claiming, wait for running jobs, and cancel those that still run after `seconds`."""
        self.close()
        deadline = asyncio.get_running_loop().time() + seconds
        async with self._claiming:
            pass  # a claim in progress ends, and its jobs are waited for with the others
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
