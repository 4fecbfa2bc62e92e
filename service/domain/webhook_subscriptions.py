"""Changes of a tenant's webhook subscription, which is kept at the vendor, with their audit entries."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeVar

from service.domain.audit import Actor, AuditedUnit
from service.domain.ids import TenantId

T = TypeVar("T")

SubscriptionAction = Literal["webhook.registered", "webhook.removed"]


class AuditStore(Protocol):
    """Rows of the audit trail."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[AuditedUnit]:
        """Open a transaction that holds nothing but audit entries."""
        ...


async def change_subscription(
    store: AuditStore, tenant_id: TenantId, action: SubscriptionAction, change: Callable[[], Awaitable[T]]
) -> T:
    """Make a change at the vendor, then record it.

    The vendor's change is no transaction of ours: when the entry fails, the operator repeats the command,
    which changes nothing at the vendor and writes the entry.
    """
    changed = await change()
    async with store.changing(Actor.operator(tenant_id)) as unit:
        await unit.record(action, tenant_id)
    return changed
