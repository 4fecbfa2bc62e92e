"""Named leases: the process that holds one does the work for all, such as the sweep."""

from service.domain.ids import Lease
from service.store.database import Database
from service.store.queries import sql


class NamedLeaseRows:
    """Leases that one process holds at a time, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, name: str, lease: Lease, seconds: float) -> bool:
        """Acquire or renew a lease; false while another process holds it."""
        row = await self._database.fetchrow(sql("named_leases.acquire"), name, lease, seconds)
        return row is not None

    async def release(self, name: str, lease: Lease) -> None:
        """Release a lease that we hold."""
        await self._database.execute(sql("named_leases.release"), name, lease)
