"""Counts due rows and leases for metrics."""

from msgspec import Struct

from service.store.database import Database
from service.store.queries import sql


class Queue(Struct, frozen=True):
    """The number of due rows; `oldest_seconds` is the age of the oldest, 0 if none is due."""

    name: str
    depth: int
    oldest_seconds: float


class QueueDepthRows:
    """Counts over all tenants, by indexes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def depths(self) -> list[Queue]:
        """Return the depth of each queue."""
        rows = await self._database.fetch(sql("queue_depths.depths"))
        return [Queue(row["queue"], row["depth"], row["oldest_seconds"]) for row in rows]

    async def leases(self) -> dict[str, int]:
        """Return how many leases are in force, by kind."""
        row = await self._database.fetchrow(sql("queue_depths.leases"))
        return dict(row) if row else {}
