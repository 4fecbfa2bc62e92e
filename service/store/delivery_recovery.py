"""What puts deliveries right by hand: a test, recovering what failed, the EMR's word that one is filed."""

from datetime import datetime

from schemas.deliveries import Ping, PingData
from schemas.emr import Delivery, Recovered
from service.domain.errors import DeliveryAlreadyFiled, DestinationDisabled, NotFound, SessionErased
from service.domain.ids import DeliveryId, DestinationId, TenantId, new_delivery_id
from service.store.database import Database, LentConnection
from service.store.deliveries import DeliveryRows
from service.store.encryption import Keyring
from service.store.queries import sql
from service.store.results import event_aad


class DeliveryRecoveryRows:
    """Rows of deliveries as an operator or the EMR changes them."""

    def __init__(self, database: Database, keyring: Keyring, deliveries: DeliveryRows) -> None:
        self._database = database
        self._keyring = keyring
        self._deliveries = deliveries

    async def ping(self, tenant_id: TenantId, destination_id: DestinationId, at: datetime) -> Delivery:
        """Put a test into the outbox of a destination, whatever its filters.

        Raises NotFound, or DestinationDisabled when it is off.
        """
        delivery_id = new_delivery_id()
        body = Ping(type="ping", timestamp=at, data=PingData(destination_id=destination_id))
        async with self._database.transaction() as connection:
            await _hold_enabled(connection, tenant_id, destination_id)
            await connection.execute(
                sql("delivery_recovery.add_ping"),
                tenant_id,
                delivery_id,
                destination_id,
                self._keyring.seal_json(body, event_aad(None)),
            )
        await self._database.execute(sql("circuit_breakers.probe_now"), destination_id)
        return await self._deliveries.one(tenant_id, delivery_id)

    async def recover(self, tenant_id: TenantId, destination_id: DestinationId, since: datetime) -> Recovered:
        """Make due what died at a destination since then, and what it wants of then and never got.

        The same again finds nothing more to do. Raises NotFound, or DestinationDisabled when it is off.
        """
        async with self._database.transaction() as connection:
            await _hold_enabled(connection, tenant_id, destination_id)
            dead = await connection.fetchrow(sql("delivery_recovery.recover_dead"), destination_id, since)
            missed = await connection.fetch(
                sql("delivery_recovery.never_attempted"), tenant_id, destination_id, since
            )
            replayed = await connection.fetch(
                sql("delivery_recovery.replay"),
                destination_id,
                [new_delivery_id() for _ in missed],
                [row["id"] for row in missed],
            )
        # Whoever recovers says that it is mended: an open breaker looks at once.
        await self._database.execute(sql("circuit_breakers.probe_now"), destination_id)
        return Recovered(recovered=dead["recovered"] if dead else 0, replayed=len(replayed))

    async def confirm(self, tenant_id: TenantId, delivery_id: DeliveryId, record_id: str) -> Delivery:
        """Record under which id the EMR filed a delivery; no attempt follows, whatever its state was.

        An EMR can have got what our attempt knows nothing of: its answer was lost. So a pending, paused or
        dead delivery is taken, too. Raises NotFound, SessionErased or DeliveryAlreadyFiled.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                sql("delivery_recovery.hold_delivery_s_destination"), tenant_id, delivery_id
            )
            row = await connection.fetchrow(sql("delivery_recovery.lock_delivery"), tenant_id, delivery_id)
            if row is None:
                raise NotFound("no such delivery")
            if row["status"] == "filed" and row["record_id"] not in {None, record_id}:
                raise DeliveryAlreadyFiled("the delivery is filed under another record id")
            if row["status"] != "filed" or row["record_id"] is None:
                if (
                    await connection.fetchrow(sql("delivery_recovery.confirm"), delivery_id, record_id)
                    is None
                ):
                    raise SessionErased("the session of this delivery was erased")
                await connection.execute(sql("delivery_recovery.supersede"), delivery_id)
        return await self._deliveries.one(tenant_id, delivery_id)


async def _hold_enabled(
    connection: LentConnection, tenant_id: TenantId, destination_id: DestinationId
) -> None:
    row = await connection.fetchrow(sql("delivery_recovery.hold_destination"), tenant_id, destination_id)
    if row is None:
        raise NotFound("no such destination")
    if not row["enabled"]:
        raise DestinationDisabled("the destination is off: turn it on first")
