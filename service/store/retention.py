"""Erases the content and deletes the rows of sessions after the retention of their tenant."""

from msgspec import Struct

from service.domain.ids import SessionId, TenantId
from service.store.database import Database
from service.store.queries import sql
from service.store.session_updates import audit, count_rows, erase_rows

# The actor of erasures in the audit trail.
ACTOR = "retention"
# A session that ended badly keeps its audio for so long at least, so that it can be exported.
_AFTER_BAD_ENDING_DAYS = 7


class Kept(Struct, frozen=True):
    """A session beyond its tenant's retention."""

    session_id: SessionId
    tenant_id: TenantId


class RetentionRows:
    """Finds sessions beyond their retention and removes them, unless a call or delivery is still pending."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, limit: int, *, rows: bool) -> list[Kept]:
        """Return sessions whose content, or with `rows` whose rows, are beyond the retention."""
        found = await self._database.fetch(sql("retention.due"), limit, rows)
        return [Kept(SessionId(row["id"]), TenantId(row["tenant_id"])) for row in found]

    async def erase(self, kept: Kept) -> bool:
        """Erase a session's content; false if another transaction has locked it or it is no longer due."""
        return await self._take_out(kept, rows=False)

    async def delete(self, kept: Kept) -> bool:
        """Delete every row of a session except its audit entries; false as in `erase`."""
        return await self._take_out(kept, rows=True)

    async def purge_audio(self, limit: int) -> int:
        """Delete up to `limit` blocks of audio that was kept long enough (KEEP_AUDIO); return how many."""
        return len(await self._database.fetch(sql("retention.purge_audio"), limit, _AFTER_BAD_ENDING_DAYS))

    async def _take_out(self, kept: Kept, *, rows: bool) -> bool:
        session_id, tenant_id = kept.session_id, kept.tenant_id
        async with self._database.transaction() as connection:
            if await connection.fetchrow(sql("retention.hold"), session_id, rows) is None:
                return False
            await connection.execute(sql("erasure.hold_destinations"), session_id)
            deliveries = await connection.fetch(sql("retention.hold_deliveries"), session_id)
            if any(row["is_open"] for row in deliveries):
                return False
            if not rows:
                await erase_rows(connection, tenant_id, session_id, ACTOR)
                return True
            facts = await count_rows(connection, session_id)
            await connection.execute(sql("erasure.webhooks"), session_id)
            await connection.execute(sql("retention.forget_keys"), session_id, tenant_id)
            await connection.execute(sql("retention.delete"), session_id)
            await audit(connection, tenant_id, ACTOR, "session.deleted", session_id, facts)
        return True
