"""The outbox: an event is stored with one delivery for each destination that wants it, in one transaction.

The transaction is that of the result itself, so no result is stored without its deliveries, and no delivery
exists without its result.
"""

from schemas.events import Event
from service.domain.ids import DocumentId, SessionId, TemplateId, TenantId, new_delivery_id
from service.store.database import LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql


def event_aad(session_id: str | None) -> str:
    """Return the AAD that binds an event's body to its session."""
    return f"event.body:{session_id or ''}"


async def insert_event(
    connection: LentConnection,
    keyring: Keyring,
    tenant_id: TenantId,
    session_id: SessionId,
    event: Event,
    document_id: DocumentId | None,
    template_id: TemplateId | None,
) -> None:
    """Insert an event and one delivery for each of the tenant's destinations that wants it."""
    event_id = await connection.fetchval(
        sql("deliveries.insert_event"),
        tenant_id,
        session_id,
        document_id,
        event.type,
        template_id,
        keyring.encrypt_json(event, event_aad(session_id)),
    )
    destinations = await connection.fetch(
        sql("deliveries.destinations_for"), tenant_id, event.type, template_id or None
    )
    deliveries = [
        (
            new_delivery_id(),
            tenant_id,
            event_id,
            session_id,
            document_id,
            destination["id"],
            event.type,
            destination["enabled"],
        )
        for destination in destinations
    ]
    if deliveries:
        await connection.executemany(sql("deliveries.insert"), deliveries)
