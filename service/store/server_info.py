"""Facts about the PostgreSQL server that `ekabridge doctor` checks."""

from msgspec import Struct

from service.store.database import Database
from service.store.queries import sql


class Server(Struct, frozen=True, kw_only=True):
    """`connections` is the limit for all users, `connections_of_role` the limit for ours, -1 for none."""

    version: int  # 180004 is 18.4
    now: float  # seconds since 1970
    connections: int
    connections_of_role: int
    statement_timeout_ms: int  # 0: none
    is_standby: bool


async def look_at_server(database: Database) -> Server:
    """Return the version, clock and limits of the server."""
    row = await database.fetchrow(sql("server_info.server"))
    if row is None:  # pragma: no cover - the statement always returns its row
        raise AssertionError("the statement returned no row")
    return Server(**dict(row))


async def forbidden_tables(database: Database) -> list[str]:
    """Return the tables on which our user lacks a privilege that it needs."""
    return [row["name"] for row in await database.fetch(sql("server_info.forbidden"))]
