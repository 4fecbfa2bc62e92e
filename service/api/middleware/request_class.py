"""Limits of one class of requests, and the refusal of what exceeds a limit."""

from collections import Counter
from collections.abc import Mapping
from random import randint

from service.api.middleware.load_monitor import IN_WORK, REFUSED, LoadMonitor
from service.domain.errors import Overloaded

# A process that falls behind still admits so many requests of a class.
_MIN_REQUESTS = 16
_DETAILS = {
    "places": "more is in work here than can be answered in time",
    "share": "more of your calls are in work here than one customer's share",
    "connections": "more of your connections are open here than one customer's share",
    "spool": "more audio is on its way here than can be kept",
    "folder": "the folder for audio on its way is full or cannot be used",
}


def refusal(
    request_class: str, reason: str, detail: str, retry_after_seconds: tuple[int, int] = (1, 4)
) -> Overloaded:
    """Count a refusal and return the error to raise; a random delay spreads the retries of clients."""
    REFUSED.labels(request_class, reason).inc()
    delay = randint(*retry_after_seconds)  # noqa: S311 - spreads retries, keeps no secret
    return Overloaded(detail, retry_after_seconds=delay)


class RequestClass:
    """Counts the requests of one class, in all and for each holder, and refuses those beyond its limits.

    A holder is a tenant, or an address where the caller is not known yet.
    """

    def __init__(
        self,
        name: str,
        max_requests: int,
        *,
        max_per_holder: int,
        load_monitor: LoadMonitor | None = None,
        details: Mapping[str, str] = _DETAILS,
    ) -> None:
        """`load_monitor` lowers the limit while the process falls behind; None keeps the limit constant.

        `details` are the sentences of the refusals, by their reason.
        """
        self.name = name
        self.max_requests = max_requests
        self.max_per_holder = max_per_holder
        self.in_use = 0
        self.in_use_by_holder: Counter[str] = Counter()
        self._load_monitor = load_monitor
        self._details = details
        self._gauge = IN_WORK.labels(name)

    def check(self) -> None:
        """Raise Overloaded if the class is full at this moment."""
        limit = self._limit()
        if self.in_use >= self.max_requests or self._counted(limit) >= limit:
            raise self.refusal("places")

    def acquire(self, holder: str | None) -> None:
        """Count a request of a holder; None has no limit of its own. Raises Overloaded at a limit."""
        self.check()
        if holder is not None:
            if self.in_use_by_holder[holder] >= self._share(self._limit()):
                raise self.refusal("share")
            self.in_use_by_holder[holder] += 1
        self.in_use += 1
        self._gauge.inc()

    def _limit(self) -> int:
        """Return how many requests the class admits at this moment."""
        if self._load_monitor is None:
            return self.max_requests
        reduced = int(self.max_requests * self._load_monitor.capacity_factor)
        return max(min(self.max_requests, _MIN_REQUESTS), reduced)

    def _share(self, limit: int) -> int:
        """Return how many of these one holder may have: the same part of a reduced limit as of the whole."""
        return max(1, limit * self.max_per_holder // self.max_requests)

    def _counted(self, limit: int) -> int:
        """Count the requests in work, of each holder no more than its share.

        A limit that falls finds holders above their share of it; they must not take the others' places.
        """
        if self.in_use < limit:
            return self.in_use
        share = self._share(limit)
        return self.in_use - sum(max(0, number - share) for number in self.in_use_by_holder.values())

    def release(self, holder: str | None) -> None:
        """Count a request as finished."""
        self.in_use -= 1
        self._gauge.dec()
        if holder is not None:
            self.in_use_by_holder[holder] -= 1
            if not self.in_use_by_holder[holder]:
                del self.in_use_by_holder[holder]

    def refusal(self, reason: str) -> Overloaded:
        """Count a refusal and return the error to raise."""
        return refusal(self.name, reason, self._details[reason])
