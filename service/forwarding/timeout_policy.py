"""How long calls to destinations may take, so that silent ones cannot hold the worker.

A destination's time-out (up to 120 s) is an upper limit: one whose last call hung gets less until a call
succeeds. And of the calls that have waited for an answer for unusually long, no more than fill half of the
worker's places go on: one more ends the oldest of the tenant that has the most of them.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from service.domain.ids import DestinationId
from service.domain.models import DeliveryJob

log = structlog.get_logger()

# After one call that hung, after more; a probe of an open breaker gets the whole time-out: probes are few.
_AFTER_HANGS_SECONDS = (10.0, 5.0)
# An answer that has begun may be read to its end.
_READING_SECONDS = 3.0
# Longer than nearly every endpoint takes, so that a call is watched by a timer and costs nothing else.
_MIN_USUAL_SECONDS = 1.0
_MAX_USUAL_SECONDS = 10.0
_REMEMBERED = 10_000


def silent_holders(job: DeliveryJob) -> str | None:
    """Return the group whose share of the worker a call to a hanging destination takes: all of them."""
    return "silent" if job.hangs else None


def silent_holders_of_tenant(job: DeliveryJob) -> str | None:
    """Return the group whose share of the worker a call to a hanging destination takes: its tenant's."""
    return f"silent:{job.tenant_id}" if job.hangs else None


class Call:
    """A call under way; equal to itself alone."""

    def __init__(self, job: DeliveryJob, scope: asyncio.Timeout) -> None:
        self.job = job
        self._scope = scope
        self.is_answered = False

    def answered(self) -> None:
        """Its status is here: what follows is bounded by itself, and the call is not cut any more."""
        self.is_answered = True
        ends = self._scope.when()
        if ends is not None and not self._scope.expired():
            self._scope.reschedule(max(ends, asyncio.get_running_loop().time() + _READING_SECONDS))

    def cut(self) -> None:
        """End it now, as its time-out would."""
        if not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


class TimeoutPolicy:
    """Knows how long destinations usually take, and which calls are silent for longer."""

    def __init__(self, *, max_silent: int) -> None:
        self._max_silent = max_silent
        self._silent: dict[Call, None] = {}
        self._usual_seconds: dict[DestinationId, float] = {}

    def seconds(self, job: DeliveryJob, timeout_seconds: float) -> float:
        """Return how long this call may take; never less than twice what its destination usually takes."""
        granted = job.timeout_seconds or timeout_seconds
        if job.is_probe or not job.hangs:
            return granted
        short = _AFTER_HANGS_SECONDS[min(job.hangs, len(_AFTER_HANGS_SECONDS)) - 1]
        return min(granted, max(short, 2 * self._usual_seconds.get(job.destination_id, 0.0)))

    @contextmanager
    def watch(self, job: DeliveryJob, scope: asyncio.Timeout) -> Iterator[Call]:
        """Watch a call that this scope ends; cut it when too many others are silent, too."""
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
        """Take in how long a destination took for an answer."""
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
