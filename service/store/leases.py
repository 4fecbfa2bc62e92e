"""Named leases: work that one process does for all, such as the sweep."""

from service.domain.ids import Lease
from service.store.database import Database
from service.store.queries import sql


class LeaseRows:
    """Named rights that one process has at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, lease: Lease, seconds: float) -> bool:
        """Take or renew a right; false while another process has it."""
        row = await self._database.fetchrow(sql("leases.acquire"), name, lease, seconds)
        return row is not None

    async def release(self, name: str, lease: Lease) -> None:
        """Give a right back, if it is ours."""
        await self._database.execute(sql("leases.release"), name, lease)
