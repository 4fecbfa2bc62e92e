"""Reads large encrypted values apart from their rows, after memory for them was acquired."""

from collections.abc import Awaitable, Callable, Sequence

from asyncpg import Record

from service.domain.ids import TenantId
from service.store.database import Database
from service.store.queries import sql

# Acquires memory for a number of stored bytes. Raises Overloaded.
Reserve = Callable[[int], Awaitable[None]]
# The statements have the same limit: smaller values of an answer come with their rows.
SMALL_BYTES = 65_536


class LargeValues:
    """Reads the values that a statement omitted for their size."""

    def __init__(self, database: Database, reserve: Reserve | None = None) -> None:
        self._database = database
        self._reserve = reserve

    async def transcripts(self, tenant_id: TenantId, rows: Sequence[Record]) -> dict[str, bytes | None]:
        """Return the transcripts of these sessions by id, from the rows or by a second query."""
        return await self._values("transcript", sql("sessions.transcripts"), tenant_id, rows)

    async def data(self, tenant_id: TenantId, rows: Sequence[Record]) -> dict[str, bytes | None]:
        """Return the data of these documents by id, from the rows or by a second query."""
        return await self._values("data", sql("documents.data"), tenant_id, rows)

    async def _values(
        self, name: str, statement: str, tenant_id: TenantId, rows: Sequence[Record]
    ) -> dict[str, bytes | None]:
        column = f"{name}_sealed"
        found: dict[str, bytes | None] = {row["id"]: row[column] for row in rows}
        left_out = {row["id"]: row[f"{name}_bytes"] for row in rows if row[f"{name}_bytes"]}
        left_out = {id_: size for id_, size in left_out.items() if found[id_] is None}
        if left_out:
            total = sum(left_out.values())
            if self._reserve is not None and total > SMALL_BYTES:
                await self._reserve(total)
            for row in await self._database.fetch(statement, tenant_id, list(left_out)):
                found[row["id"]] = row[column]
        return found
