"""Limits the memory for large bodies of deliveries in a worker, from their claim until their attempt ends.

A claim decrypts the bodies of its deliveries: without a budget, 256 concurrent deliveries could hold 256
documents of 8 MiB each. Small bodies do not count; the number of concurrent deliveries limits them.
"""

from collections import Counter

from service.concurrency.memory_budget import DELIVERIES_BYTES
from service.domain.deliveries.models import DeliveryJob
from service.domain.ids import TenantId

# The SQL statement deliveries.claim uses the same number.
SMALL_BYTES = 65_536
# A call holds the stored body and the payload that it sends.
_COPIES = 2


class BodyBudget:
    """Computes how many bytes a claim may fetch, and keeps half of the budget from any single tenant."""

    def __init__(self, max_bytes: int = DELIVERIES_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held: Counter[TenantId] = Counter()

    @property
    def held_bytes(self) -> int:
        """The bytes that claimed bodies hold."""
        return self._held.total()

    def claimable_bytes(self) -> int:
        """Return the largest total size for the bodies of one claim: half of the budget at most."""
        return min(self._max_bytes - self.held_bytes, self._max_bytes // 2) // _COPIES

    def holders_at_quota(self) -> list[str]:
        """Return the tenants, spelled as in claims, whose large bodies hold half of the budget or more."""
        return [f"large:{tenant}" for tenant, held in self._held.items() if held >= self._max_bytes // 2]

    def acquire(self, job: DeliveryJob) -> None:
        """Count a claimed body."""
        if len(job.body) > SMALL_BYTES:
            self._held[job.tenant_id] += _COPIES * len(job.body)

    def release(self, job: DeliveryJob) -> None:
        """Stop counting a body whose attempt has ended."""
        if len(job.body) > SMALL_BYTES:
            self._held[job.tenant_id] -= _COPIES * len(job.body)
            if not self._held[job.tenant_id]:
                del self._held[job.tenant_id]
