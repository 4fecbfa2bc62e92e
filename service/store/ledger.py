"""The ledger: one statement counts from rows what became of the sessions that ended or expired.

A day that is long over is folded: the database keeps its number of sessions per tenant, and indexes find
those of its sessions that are still open. So the cost of a count follows the last days and the open work, not
the years.
"""

from datetime import date, datetime

from msgspec import Struct

from schemas.ledger import Ledger, LedgerClass
from service.domain.ids import SessionId, TenantId
from service.store.database import Database, LentConnection
from service.store.queries import sql

_MAX_SHOWN = 1000


class Look(Struct, frozen=True, kw_only=True):
    """A ledger and at most a thousand sessions of one class, oldest first."""

    ledger: Ledger
    shown: list[SessionId]


class LedgerRows:
    """Counts from one snapshot, so that the equation holds at every instant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(
        self, tenant_id: TenantId | None, since: datetime | None = None, before: datetime | None = None
    ) -> Ledger:
        """Count the sessions of a tenant, or of all with None, whose end lies in [since, before)."""
        return (await self.look(tenant_id, since, before, None)).ledger

    async def look(
        self,
        tenant_id: TenantId | None,
        since: datetime | None,
        before: datetime | None,
        show: LedgerClass | None,
    ) -> Look:
        """Count, and name the sessions of one class, from the same snapshot."""
        row = await self._database.fetchrow(sql("ledger.count"), tenant_id, since, before, show, _MAX_SHOWN)
        if row is None:  # pragma: no cover - a count without GROUP BY always returns its row
            raise AssertionError("the ledger returned no row")
        ledger = Ledger(**{name: row[name] for name in Ledger.__struct_fields__})
        return Look(ledger=ledger, shown=[SessionId(each) for each in row["shown"]])

    async def fold(self) -> bool:
        """Fold one more day that is over; false if there is none.

        Counts still include the sessions of that day that are not settled. A wrong database clock may have
        folded days that are not over: these are unfolded first.
        """
        async with self._database.transaction() as connection:
            await connection.execute(sql("ledger.hold"))
            for wrong in await connection.fetch(sql("ledger.days_to_come")):
                await connection.execute(sql("ledger.unfold"), wrong["day"])
            row = await connection.fetchrow(sql("ledger.next_day"))
            if row is not None:
                await connection.execute(sql("ledger.fold"), row["day"])
        return row is not None

    async def recount(self) -> date | None:
        """Count the folded day again that was counted longest ago; return the day if its figures were wrong.

        The figures should never be wrong. This repairs them after a mistake, whoever wrote to the database.
        """
        async with self._database.transaction() as connection:
            await connection.execute(sql("ledger.hold"))
            row = await connection.fetchrow(sql("ledger.oldest_count"))
            if row is None:
                return None
            day: date = row["day"]
            before = await _figures(connection, sql("ledger.unfold"), day)
            return None if await _figures(connection, sql("ledger.fold"), day) == before else day


async def _figures(connection: LentConnection, statement: str, day: date) -> dict[str, int]:
    """Run a statement over a day and return the sessions that it counted for each tenant."""
    return {row["tenant_id"]: row["ended"] for row in await connection.fetch(statement, day) if row["ended"]}
