"""Erases the content and deletes the rows of sessions after the retention of their tenant."""

from msgspec import Struct

from service.domain.ids import SessionId, TenantId
from service.store.audit import insert_audit_entry
from service.store.database import Database
from service.store.erasure import count_session_rows, erase_session_rows
from service.store.queries import sql

# The actor of erasures in the audit trail.
ACTOR = "retention"
# A session that ended badly keeps its audio for so long at least, so that it can be exported.
_AFTER_BAD_ENDING_DAYS = 7


class RetentionDue(Struct, frozen=True):
    """A session that is past the retention of its tenant."""

    session_id: SessionId
    tenant_id: TenantId


class RetentionRows:
    """Finds sessions past their retention and removes them, unless a call or delivery is still pending."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, limit: int, *, rows: bool) -> list[RetentionDue]:
        """Return sessions whose content, or with `rows` whose rows, are past the retention."""
        found = await self._database.fetch(sql("retention.due"), limit, rows)
        return [RetentionDue(SessionId(row["id"]), TenantId(row["tenant_id"])) for row in found]

    async def erase(self, due: RetentionDue) -> bool:
        """Erase a session's content; false if another transaction has locked it or it is no longer due."""
        return await self._remove(due, rows=False)

    async def delete(self, due: RetentionDue) -> bool:
        """Delete every row of a session except its audit entries; false as in `erase`."""
        return await self._remove(due, rows=True)

    async def purge_audio(self, limit: int) -> int:
        """Delete up to `limit` blocks of audio that was kept long enough (KEEP_AUDIO); return how many."""
        return len(await self._database.fetch(sql("retention.purge_audio"), limit, _AFTER_BAD_ENDING_DAYS))

    async def _remove(self, due: RetentionDue, *, rows: bool) -> bool:
        session_id, tenant_id = due.session_id, due.tenant_id
        async with self._database.transaction() as connection:
            if await connection.fetchrow(sql("retention.hold"), session_id, rows) is None:
                return False
            await connection.execute(sql("erasure.hold_destinations"), session_id)
            deliveries = await connection.fetch(sql("retention.hold_deliveries"), session_id)
            if any(row["is_open"] for row in deliveries):
                return False
            if not rows:
                await erase_session_rows(connection, tenant_id, session_id, ACTOR)
                return True
            facts = await count_session_rows(connection, session_id)
            await connection.execute(sql("erasure.webhooks"), session_id)
            await connection.execute(sql("retention.forget_keys"), session_id, tenant_id)
            await connection.execute(sql("retention.delete"), session_id)
            await insert_audit_entry(connection, tenant_id, ACTOR, "session.deleted", session_id, facts)
        return True
