"""The audit trail: entries commit in the transaction of the change that they record; admins read them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from asyncpg import Record
from msgspec import Struct

from schemas.audit import AuditEntry
from schemas.pages import Page
from service.domain.audit import Actor
from service.domain.errors import InvalidRequest
from service.domain.ids import KeyId, TenantId
from service.store.database import Database, LentConnection
from service.store.paging import PageAfter, page_of
from service.store.queries import sql

# PostgreSQL stores the ids as bigint.
_GREATEST_ID = 2**63 - 1


class AuditFilter(Struct, frozen=True, kw_only=True):
    """A filter of a list of entries; a field that is None filters nothing. The interval is half-open."""

    action: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    before: datetime | None = None


async def insert_audit_entry(
    connection: LentConnection,
    tenant_id: TenantId,
    actor: str,
    action: str,
    object_id: str,
    facts: dict[str, Any],
) -> None:
    """Insert an audit entry in the transaction of its change; `facts` must carry no content."""
    await connection.execute(sql("audit.insert"), tenant_id, actor, action, object_id, facts)


class AuditedUnitRows:
    """The domain's AuditedUnit over PostgreSQL: one transaction, opened for one actor."""

    def __init__(self, connection: LentConnection, actor: Actor) -> None:
        self._connection = connection
        self._actor = actor
        self._tenant_id = actor.tenant_id

    async def record(self, action: str, object_id: str, **facts: Any) -> None:
        """Add an audit entry to the transaction; the facts hold no content."""
        await insert_audit_entry(
            self._connection, self._tenant_id, self._actor.name, action, object_id, facts
        )


class AuditRows:
    """The domain's ReadStore over PostgreSQL, and the list for admins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator[AuditedUnitRows]:
        """Open a transaction that holds nothing but audit entries, for a change that another system made."""
        async with self._database.transaction() as connection:
            yield AuditedUnitRows(connection, actor)

    async def insert_reads(
        self, tenant_id: TenantId, actor: KeyId, action: str, object_ids: Sequence[str]
    ) -> None:
        """Insert an entry for each object that the actor read."""
        await self._database.execute(sql("audit.insert_reads"), tenant_id, actor, action, list(object_ids))

    async def page(
        self, tenant_id: TenantId, wanted: AuditFilter, after: PageAfter | None, limit: int
    ) -> Page[AuditEntry]:
        """Return one page of a tenant's entries, newest first. Raises InvalidRequest for a foreign cursor."""
        at, last = after or (None, None)
        rows = await self._database.fetch(
            sql("audit.page"),
            tenant_id,
            wanted.action,
            wanted.object_id,
            wanted.since,
            wanted.before,
            at,
            None if last is None else _number(last),
            limit + 1,
        )
        return page_of(rows, limit, _entry)


def _number(last: str) -> int:
    if not last.isdecimal() or int(last) > _GREATEST_ID:
        raise InvalidRequest("the cursor is not one of ours", field="cursor")
    return int(last)


def _entry(row: Record) -> AuditEntry:
    return AuditEntry(
        id=str(row["id"]),
        at=row["at"],
        actor=row["actor"],
        action=row["action"],
        object_id=row["object_id"],
        facts=row["facts"],
    )
