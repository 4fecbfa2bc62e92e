"""What PostgreSQL says of itself, for whoever sets it up."""

from msgspec import Struct

from service.store.database import Database
from service.store.queries import sql


class Server(Struct, frozen=True, kw_only=True):
    """`connections`: what the server allows to users; `connections_of_role`: to ours, -1 for no limit."""

    version: int  # 180004 is 18.4
    now: float  # seconds since 1970
    connections: int
    connections_of_role: int
    statement_timeout_ms: int  # 0: none
    is_standby: bool


async def look_at_server(database: Database) -> Server:
    """Ask the server what it is."""
    row = await database.fetchrow(sql("server_info.server"))
    if row is None:  # pragma: no cover - the statement always returns its row
        raise AssertionError("the server told nothing of itself")
    return Server(**dict(row))


async def forbidden_tables(database: Database) -> list[str]:
    """Return the tables that our user may not read and write as it must."""
    return [row["name"] for row in await database.fetch(sql("server_info.forbidden"))]
