"""Makes the fetches of a session due again, when a person or a waiting client asks for its result."""

from datetime import datetime

from service.domain.ids import SessionId, TenantId
from service.domain.results.refreshing import Refreshed
from service.store.database import Database
from service.store.queries import sql


class ResultRefreshRows:
    """The domain's RefreshableStore over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def refresh(
        self, tenant_id: TenantId, session_id: SessionId, actor: str, seconds: float
    ) -> Refreshed | None:
        """Make the unfiltered fetch due, at least `seconds` after the last one, with its audit entry.

        Returns None if the tenant has no such session.
        """
        row = await self._database.fetchrow(sql("results.refresh"), tenant_id, session_id, actor, seconds)
        if row is None:
            return None
        return Refreshed(status=row["status"], is_erased=row["is_erased"], is_requested=row["is_requested"])

    async def hurry(self, tenant_id: TenantId, session_id: SessionId, seconds: float) -> bool:
        """Make those fetches of an ended session due whose last call is at least `seconds` ago."""
        return bool(await self._database.fetch(sql("results.hurry"), tenant_id, session_id, seconds))

    async def ended_badly(
        self, tenant_id: TenantId | None, since: datetime, limit: int
    ) -> list[tuple[TenantId, SessionId]]:
        """Return sessions created since then that are partial, failed or expired, oldest first."""
        rows = await self._database.fetch(sql("sessions.ended_badly"), tenant_id, since, limit)
        return [(TenantId(row["tenant_id"]), SessionId(row["id"])) for row in rows]
