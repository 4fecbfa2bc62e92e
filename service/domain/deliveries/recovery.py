"""Changes of deliveries by people and EMRs: retry, recover, test, confirm."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from schemas.deliveries import Delivery, Recovered
from service.domain.audit import Actor, AuditedUnit
from service.domain.ids import DeliveryId, DestinationId, TenantId, new_delivery_id


class DeliveryUnit(AuditedUnit, Protocol):
    """One transaction in a tenant's deliveries."""

    async def retry(self, delivery_id: DeliveryId) -> None:
        """Make a dead delivery due again, with the same id.

        Raises NotFound, SessionErased, DeliverySuperseded or DeliverySettled.
        """
        ...

    async def confirm(self, delivery_id: DeliveryId, record_id: str) -> None:
        """Record under which id the EMR filed a delivery.

        Raises NotFound, SessionErased or DeliveryAlreadyFiled.
        """
        ...

    async def ping(self, destination_id: DestinationId, delivery_id: DeliveryId, at: datetime) -> None:
        """Put a test into the outbox of a destination. Raises NotFound or DestinationDisabled."""
        ...

    async def recover(self, destination_id: DestinationId, since: datetime) -> Recovered:
        """Make due again what died at a destination since then, and what it wants and never got.

        Raises NotFound or DestinationDisabled.
        """
        ...


class DeliveryStore(Protocol):
    """Rows of deliveries."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[DeliveryUnit]:
        """Open a transaction for an actor in the deliveries of its tenant."""
        ...

    async def probe_now(self, tenant_id: TenantId, destination_id: DestinationId) -> None:
        """End the waits of a destination that is said to be mended; an open breaker lets one call try."""
        ...

    async def one(self, tenant_id: TenantId, delivery_id: DeliveryId) -> Delivery:
        """Return a delivery with its attempts. Raises NotFound."""
        ...


class Deliveries:
    """Changes deliveries; each change and its audit entry are one transaction."""

    def __init__(self, store: DeliveryStore) -> None:
        self._store = store

    async def retry(self, actor: Actor, delivery_id: DeliveryId) -> Delivery:
        """Make a dead delivery due again, with the same id.

        Raises NotFound, SessionErased, DeliverySuperseded or DeliverySettled.
        """
        async with self._store.changing(actor) as unit:
            await unit.retry(delivery_id)
            await unit.record("delivery.retried", delivery_id)
        return await self._store.one(actor.tenant_id, delivery_id)

    async def confirm(self, actor: Actor, delivery_id: DeliveryId, record_id: str) -> Delivery:
        """Record under which id the EMR filed a delivery; no attempt follows, whatever its state was.

        An EMR can have received an attempt whose answer was lost, so a pending, paused or dead delivery can
        be confirmed, too. Raises NotFound, SessionErased or DeliveryAlreadyFiled.
        """
        async with self._store.changing(actor) as unit:
            await unit.confirm(delivery_id, record_id)
            await unit.record("delivery.confirmed", delivery_id)
        return await self._store.one(actor.tenant_id, delivery_id)

    async def test(self, actor: Actor, destination_id: DestinationId, at: datetime) -> Delivery:
        """Put a ping into the outbox of a destination, whatever its filters.

        Raises NotFound, or DestinationDisabled when it is off.
        """
        delivery_id = new_delivery_id()
        async with self._store.changing(actor) as unit:
            await unit.ping(destination_id, delivery_id, at)
            await unit.record("destination.tested", destination_id)
        await self._store.probe_now(actor.tenant_id, destination_id)
        return await self._store.one(actor.tenant_id, delivery_id)

    async def recover(self, actor: Actor, destination_id: DestinationId, since: datetime) -> Recovered:
        """Make due again what died at a destination since then, and what it wants and never got.

        The same again finds nothing more to do. Raises NotFound, or DestinationDisabled when it is off.
        """
        async with self._store.changing(actor) as unit:
            found = await unit.recover(destination_id, since)
            await unit.record(
                "destination.recovered",
                destination_id,
                since=since.isoformat(),
                recovered=found.recovered,
                replayed=found.replayed,
            )
        # A recovery says that the destination is mended: an open breaker tries at once.
        await self._store.probe_now(actor.tenant_id, destination_id)
        return found
