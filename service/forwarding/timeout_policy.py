"""Decides how long calls to destinations may take, so that silent destinations cannot occupy the worker.

A destination's time-out (up to 120 s) is an upper limit: after a call that hung the limit is shorter until a
call succeeds. Calls that have waited unusually long for an answer may use half of the worker's permits; one
call more ends the oldest such call of the tenant that has the most of them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.domain.deliveries.models import DeliveryJob
from service.domain.ids import DestinationId

log = structlog.get_logger()

# After one call that hung, and after several. A probe of an open circuit breaker gets the whole time-out,
# because probes are few.
_AFTER_HANGS_SECONDS = (10.0, 5.0)
# An answer that has begun may be read to its end.
_READING_SECONDS = 3.0
# Nearly every endpoint answers faster, so that watching a call costs only a timer.
_MIN_USUAL_SECONDS = 1.0
_MAX_USUAL_SECONDS = 10.0
_REMEMBERED = 10_000


def silent_holders(job: DeliveryJob) -> str | None:
    """Return the quota group of a call to a hanging destination: all such calls share one."""
    return "silent" if job.hangs else None


def silent_holders_of_tenant(job: DeliveryJob) -> str | None:
    """Return the quota group of a call to a hanging destination: one for each tenant."""
    return f"silent:{job.tenant_id}" if job.hangs else None


class Call:
    """A call under way, compared by identity."""

    def __init__(self, job: DeliveryJob, scope: asyncio.Timeout) -> None:
        self.job = job
        self._scope = scope
        self.is_answered = False

    def answered(self) -> None:
        """Record that the status arrived: the call is not cut any more, and its body has its own limit."""
        self.is_answered = True
        ends = self._scope.when()
        if ends is not None and not self._scope.expired():
            self._scope.reschedule(max(ends, asyncio.get_running_loop().time() + _READING_SECONDS))

    def cut(self) -> None:
        """End the call now, with the error of a time-out."""
        if not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


class TimeoutPolicy:
    """Knows how long destinations usually take, and which calls have been silent for longer."""

    def __init__(self, *, max_silent: int) -> None:
        self._max_silent = max_silent
        self._silent: dict[Call, None] = {}
        self._usual_seconds: dict[DestinationId, float] = {}

    def seconds(self, job: DeliveryJob, timeout_seconds: float) -> float:
        """Return how long this call may take: at least twice the usual time of its destination."""
        granted = job.timeout_seconds or timeout_seconds
        if job.is_probe or not job.hangs:
            return granted
        short = _AFTER_HANGS_SECONDS[min(job.hangs, len(_AFTER_HANGS_SECONDS)) - 1]
        return min(granted, max(short, 2 * self._usual_seconds.get(job.destination_id, 0.0)))

    @contextmanager
    def watch(self, job: DeliveryJob, scope: asyncio.Timeout) -> Iterator[Call]:
        """Watch a call that ends with `scope`, and cut it when too many calls are silent."""
        loop = asyncio.get_running_loop()
        call, begun = Call(job, scope), loop.time()
        usual = 2 * self._usual_seconds.get(job.destination_id, 0.0)
        wait = min(max(usual, _MIN_USUAL_SECONDS), _MAX_USUAL_SECONDS)
        timer = loop.call_later(wait, self._is_silent, call)
        try:
            yield call
        finally:
            timer.cancel()
            self._silent.pop(call, None)
            if call.is_answered:
                self.remember(job.destination_id, loop.time() - begun)

    def remember(self, destination_id: DestinationId, seconds: float) -> None:
        """Record how long a destination took to answer."""
        before = self._usual_seconds.pop(destination_id, seconds)
        self._usual_seconds[destination_id] = max(seconds, (before + seconds) / 2)
        if len(self._usual_seconds) > _REMEMBERED:
            del self._usual_seconds[next(iter(self._usual_seconds))]

    def _is_silent(self, call: Call) -> None:
        if call.is_answered:
            return
        self._silent[call] = None
        if len(self._silent) <= self._max_silent:
            return
        (tenant_id, _), *_ = Counter(each.job.tenant_id for each in self._silent).most_common(1)
        oldest = next(each for each in self._silent if each.job.tenant_id == tenant_id)
        del self._silent[oldest]
        oldest.cut()
        log.warning(
            "call_cut_short",
            tenant_id=tenant_id,
            destination_id=oldest.job.destination_id,
            delivery_id=oldest.job.id,
        )
