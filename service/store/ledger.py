"""The ledger: how sessions stand that were ended or expired, counted from rows by one statement."""

from datetime import datetime

from msgspec import Struct

from schemas.ledger import Ledger, LedgerClass
from service.domain.ids import SessionId, TenantId
from service.store.database import Database
from service.store.queries import sql

_MOST_SHOWN = 1000


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
