"""Erases the content of a session in every table; a request and the retention share it (sql/erasure.sql)."""

from typing import Any

from schemas.sessions import SessionStatus
from service.domain.ids import SessionId, TenantId
from service.store.audit import insert_audit_entry
from service.store.database import LentConnection
from service.store.queries import sql


async def erase_session_rows(
    connection: LentConnection, tenant_id: TenantId, session_id: SessionId, actor: str
) -> SessionStatus:
    """Erase all personal data of a session whose row the caller has locked; return its status."""
    await connection.execute(sql("erasure.hold_destinations"), session_id)
    row = await connection.fetchrow(sql("erasure.session"), session_id)
    # Every transaction locks rows in this order: another order could end in a deadlock.
    for statement in (
        sql("erasure.webhooks"),
        sql("erasure.fetches"),
        sql("erasure.audio_blocks"),
        sql("erasure.chunks"),
        sql("erasure.documents"),
        sql("erasure.deliveries"),
        sql("erasure.attempts"),
        sql("erasure.events"),
    ):
        await connection.execute(statement, session_id)
    await connection.execute(sql("erasure.connections"), session_id, tenant_id)
    await erase_answers(connection, tenant_id, session_id)
    facts = await count_session_rows(connection, session_id)
    await insert_audit_entry(connection, tenant_id, actor, "session.erased", session_id, facts)
    status: SessionStatus = row["status"] if row else "cancelled"
    return status


async def count_session_rows(connection: LentConnection, session_id: SessionId) -> dict[str, Any]:
    """Count a session's rows and hash its ids: the audit entry of an erasure keeps both."""
    row = await connection.fetchrow(sql("erasure.extent"), session_id)
    return dict(row) if row else {}


async def erase_answers(connection: LentConnection, tenant_id: TenantId, object_id: str) -> None:
    """Erase the stored answers about a session or destination; a repeat learns that it is gone."""
    await connection.execute(sql("erasure.idempotency"), object_id, tenant_id)
