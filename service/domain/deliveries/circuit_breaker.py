"""When a destination that keeps failing is left alone, and how it is found to be well again.

Its deliveries wait where they are, without using up their schedule; one at a time is tried as a probe. The
first that gets through closes the breaker, and what waited for it is due at once.

A destination that answered with Retry-After is not called at all before that time is over, whatever other
calls bring meanwhile; only a person who says that it is mended ends that wait.
"""

from typing import Protocol

import structlog
from msgspec import Struct

from service.domain.deliveries.models import DeliveryJob
from service.domain.ids import DestinationId

log = structlog.get_logger()

# How many calls one destination gets at once, over all workers: a sick one takes no more places than this.
AT_ONCE = 8
# After so many failures in a row it gets one call at a time.
CAREFUL_AFTER = 10


class DestinationCircuitBreakerRule(Struct, frozen=True, kw_only=True):
    """The breaker opens after so many failures in a row over at least so many seconds.

    The pause between probes is half the time for which it has failed, within these bounds in seconds.
    """

    failures: int = CAREFUL_AFTER
    seconds: float = 60.0
    min_pause_seconds: float = 30.0
    max_pause_seconds: float = 600.0


class FailureCount(Struct, frozen=True, kw_only=True):
    """How a destination stands after one more failure."""

    failures: int
    failing_seconds: float
    is_open: bool
    has_just_opened: bool


class DestinationCircuitBreakerStore(Protocol):
    """The port to the stored failures of destinations."""

    async def count_failure(
        self,
        destination_id: DestinationId,
        rule: DestinationCircuitBreakerRule,
        retry_after_seconds: float,
        *,
        took_long: bool = False,
    ) -> FailureCount | None:
        """Count one more failure in a row; None when the destination is gone.

        `took_long`: the call held a place of the worker for long. Until its next success the destination gets
        one call at a time, with shorter time-outs, after all others.
        """
        ...

    async def count_contact(self, destination_id: DestinationId) -> bool:
        """It answers: no failure counts any more. True when the breaker was open."""
        ...

    async def give_up(self, destination_id: DestinationId, seconds: float, error_class: str) -> int:
        """End what is older than so many seconds and still waits; return how many that were."""
        ...


class DestinationCircuitBreaker:
    """Counts how calls go and says what follows for their destination."""

    def __init__(
        self,
        *,
        store: DestinationCircuitBreakerStore,
        schedule_total_seconds: float,
        rule: DestinationCircuitBreakerRule | None = None,
    ) -> None:
        self._store = store
        self._schedule_total_seconds = schedule_total_seconds
        self._rule = rule or DestinationCircuitBreakerRule()

    async def failed(
        self,
        job: DeliveryJob,
        error_class: str,
        retry_after_seconds: float | None,
        *,
        took_long: bool = False,
    ) -> None:
        """A call did not get through, or was answered with 408, 425, 429 or 5xx."""
        count = await self._store.count_failure(
            job.destination_id, self._rule, retry_after_seconds or 0.0, took_long=took_long
        )
        if count is None or not count.is_open:
            return
        if count.has_just_opened:
            log.warning(
                "destination_failing",
                destination_id=job.destination_id,
                failures=count.failures,
                failing_seconds=round(count.failing_seconds),
                error_class=error_class,
            )
        # Waiting at an open breaker uses up no schedule, but nothing waits for longer than a whole one.
        # Never at the moment it opens: what waited for long may not have been tried yet.
        is_long = count.failing_seconds >= max(self._schedule_total_seconds, self._rule.seconds)
        if is_long and not count.has_just_opened:
            given_up = await self._store.give_up(
                job.destination_id, self._schedule_total_seconds, error_class
            )
            if given_up:
                log.warning("deliveries_given_up", destination_id=job.destination_id, deliveries=given_up)

    async def reached(self, job: DeliveryJob) -> None:
        """A call was answered by the endpoint, whatever it said of the document."""
        if job.failures and await self._store.count_contact(job.destination_id):
            log.info("destination_answers_again", destination_id=job.destination_id)
