"""How much is due, for how long, and how much is in somebody's hands."""

from msgspec import Struct

from service.store.database import Database
from service.store.queries import sql


class Queue(Struct, frozen=True):
    """Rows that are due; `oldest_seconds` is 0 when there is none."""

    name: str
    depth: int
    oldest_seconds: float


class QueueDepthRows:
    """Counts by index, over all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def depths(self) -> list[Queue]:
        """Return what is due now, by queue."""
        rows = await self._database.fetch(sql("queue_depths.depths"))
        return [Queue(row["queue"], row["depth"], row["oldest_seconds"]) for row in rows]

    async def leases(self) -> dict[str, int]:
        """Return how many leases are in force, by kind."""
        row = await self._database.fetchrow(sql("queue_depths.leases"))
        return dict(row) if row else {}
