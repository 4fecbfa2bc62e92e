"""The ledger: how sessions stand that were ended or expired, counted from rows by one statement.

Of days that are long over only the number of sessions is kept (`fold`), and what of them is open is found by
indexes: so a count costs what the last days and the open work cost, and not all the years.
"""

from datetime import datetime

from msgspec import Struct

from schemas.ledger import Ledger, LedgerClass
from service.domain.ids import SessionId, TenantId
from service.store.database import Database
from service.store.queries import sql

_MOST_SHOWN = 1000
# Longer than any transaction lasts, so that none adds to a day that was counted.
_FOLD_AFTER_SECONDS = 3_600.0


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
        row = await self._database.fetchrow(sql("ledger.count"), tenant_id, since, before, show, _MOST_SHOWN)
        if row is None:  # pragma: no cover - a count without GROUP BY always returns its row
            raise AssertionError("the ledger returned no row")
        ledger = Ledger(**{name: row[name] for name in Ledger.__struct_fields__})
        return Look(ledger=ledger, shown=[SessionId(each) for each in row["shown"]])

    async def fold(self) -> bool:
        """Count one more day that is over for good; false when there is none.

        What of that day is not as it should be stays looked at, until it is.
        """
        async with self._database.transaction() as connection:
            await connection.execute(sql("ledger.hold"))
            row = await connection.fetchrow(sql("ledger.next_day"), _FOLD_AFTER_SECONDS)
            if row is None:
                return False
            await connection.execute(sql("ledger.fold"), row["day"])
        return True
