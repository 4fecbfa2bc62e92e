"""The bytes that large bodies of deliveries hold in a worker, from their claim until their attempt ends.

A claim opens the bodies that it takes: without a budget a worker's 256 places would hold as many documents of
8 MiB each. Small bodies are not counted; the places bound them.
"""

from collections import Counter

from service.concurrency.memory_budget import DELIVERIES_BYTES
from service.domain.ids import TenantId
from service.domain.models import DeliveryJob

# As the statement deliveries.claim has it.
SMALL_BYTES = 65_536
# A call holds the body and its form as it is sent.
_COPIES = 2


class BodyBudget:
    """Says how much a claim may take; one tenant leaves room for others' large bodies."""

    def __init__(self, max_bytes: int = DELIVERIES_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held: Counter[TenantId] = Counter()

    @property
    def held_bytes(self) -> int:
        """How many bytes are held."""
        return self._held.total()

    def claimable_bytes(self) -> int:
        """Return how large the bodies of one claim may be together: half of the budget at most."""
        return min(self._max_bytes - self.held_bytes, self._max_bytes // 2) // _COPIES

    def holders_at_quota(self) -> list[str]:
        """Return the tenants, as claims name them, whose large bodies hold half of the budget or more."""
        return [f"large:{tenant}" for tenant, held in self._held.items() if held >= self._max_bytes // 2]

    def acquire(self, job: DeliveryJob) -> None:
        """Count a claimed body."""
        if len(job.body) > SMALL_BYTES:
            self._held[job.tenant_id] += _COPIES * len(job.body)

    def release(self, job: DeliveryJob) -> None:
        """Count it no more."""
        if len(job.body) > SMALL_BYTES:
            self._held[job.tenant_id] -= _COPIES * len(job.body)
            if not self._held[job.tenant_id]:
                del self._held[job.tenant_id]
