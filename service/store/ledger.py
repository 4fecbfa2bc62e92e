"""The ledger: how sessions stand that were ended or expired, counted from rows by one statement.

Of days that are long over only the number of sessions is kept (`fold`), and what of them is open is found by
indexes: so a count costs what the last days and the open work cost, and not all the years.
"""

from datetime import date, datetime

from msgspec import Struct

from schemas.ledger import Ledger, LedgerClass
from service.domain.ids import SessionId, TenantId
from service.store.database import Database, LentConnection
from service.store.queries import sql

_MAX_SHOWN = 1000


class Look(Struct, frozen=True, kw_only=True):
    """A ledger, and the sessions of the class that was asked for, oldest first: a thousand at most."""

    ledger: Ledger
    shown: list[SessionId]


class LedgerRows:
    """Counts from one snapshot, so that the equation holds at every instant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(
        self, tenant_id: TenantId | None, since: datetime | None = None, before: datetime | None = None
    ) -> Ledger:
        """Count a tenant's sessions, or with None everybody's, whose end lies in [since, before)."""
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
        """Count one more day that is over; false when there is none.

        What of that day is not as it should be stays looked at, until it is. Days that cannot be over, since
        the database's clock was wrong when they were counted, are forgotten first.
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
        """Count again the folded day that was counted longest ago; return it if its figures were wrong.

        None ever should be: this finds it out, and mends it, whatever wrote into the database.
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
    """Run a statement over a day and return how many sessions of each tenant it told of."""
    return {row["tenant_id"]: row["ended"] for row in await connection.fetch(statement, day) if row["ended"]}
