"""What PostgreSQL says of our rights and of itself."""

from __future__ import annotations

import secrets

from service.store.queries import sql
from service.store.server_info import forbidden_tables, look_at_server
from tests.support.store_house import House


async def test_a_user_that_lacks_a_right_is_told_by_the_table_s_name(house: House) -> None:
    assert await forbidden_tables(house.stores.database) == []
    role = f"limited_{secrets.token_hex(4)}"
    run = house.connection.execute
    await run(f"CREATE ROLE {role}")
    try:
        await run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        await run(f"REVOKE UPDATE, DELETE ON audit FROM {role}")  # which nobody needs
        await run(f"REVOKE DELETE ON chunks FROM {role}")
        await run(f"SET ROLE {role}")
        rows = await house.connection.fetch(sql("server_info.forbidden"))
        assert [row["name"] for row in rows] == ["chunks"]
    finally:
        await run("RESET ROLE")
        await run(f"DROP OWNED BY {role}")
        await run(f"DROP ROLE {role}")


async def test_the_server_tells_its_version_and_its_room(house: House) -> None:
    server = await look_at_server(house.stores.database)
    assert server.version >= 140_000
    assert server.connections > 0
    assert not server.is_standby
