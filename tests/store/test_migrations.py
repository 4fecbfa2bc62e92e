from __future__ import annotations

import asyncio

import asyncpg
import pytest

from service.bootstrap.container import open_stores, ping_store
from service.domain.errors import StoreUnavailable
from service.store.database import Database
from service.store.migrate import _SCRIPTS, check_schema, migrate, newest_revision
from tests.support.bridge import make_settings


async def tables_of(url: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) "
            "AS c FROM information_schema.columns WHERE table_schema = 'public' GROUP BY table_name"
        )
        return {row["table_name"]: row["c"] for row in rows}
    finally:
        await connection.close()


async def revision_of(url: str) -> str | None:
    database = Database(url, size=2, statement_cache_size=10)
    await database.open()
    try:
        return await database.revision()
    finally:
        await database.close()


async def test_an_empty_database_is_brought_to_the_newest_schema(empty_database_url, database_url):
    assert await tables_of(empty_database_url) == {}
    assert await migrate(empty_database_url) == newest_revision()
    assert await revision_of(empty_database_url) == newest_revision()
    assert {"sessions", "fetches", "deliveries", "leases"} <= set(await tables_of(empty_database_url))
    assert await tables_of(empty_database_url) == await tables_of(database_url)


async def test_a_database_that_is_older_is_told_from_one_without_a_schema(empty_database_url):
    async with open_stores(make_settings(empty_database_url, "redis://unused")) as stores:
        with pytest.raises(StoreUnavailable, match="no schema"):
            await ping_store(stores)
        connection = await asyncpg.connect(empty_database_url)
        for script in sorted((_SCRIPTS / "versions").glob("000[123]_*.sql")):
            await connection.execute(script.read_text())
        await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        await connection.execute("INSERT INTO alembic_version VALUES ('0003')")
        await connection.close()
        with pytest.raises(StoreUnavailable, match="older than this version: run `ekabridge migrate`"):
            await ping_store(stores)
        await migrate(empty_database_url)
        await ping_store(stores)


async def test_migrating_twice_changes_nothing(empty_database_url):
    await migrate(empty_database_url)
    before = await tables_of(empty_database_url)
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("INSERT INTO tenants (id, name) VALUES ('ten_1', 'kept')")
    assert await migrate(empty_database_url) == newest_revision()
    assert await connection.fetchval("SELECT name FROM tenants") == "kept"
    await connection.close()
    assert await tables_of(empty_database_url) == before


async def test_two_pods_may_migrate_at_once(empty_database_url):
    revisions = await asyncio.gather(*(migrate(empty_database_url) for _ in range(3)))
    assert revisions == [newest_revision()] * 3
    assert await revision_of(empty_database_url) == newest_revision()


async def test_a_migration_that_fails_leaves_the_schema_as_it_was(empty_database_url):
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("CREATE TABLE deliveries (id text)")  # in the way of ours
    with pytest.raises(Exception, match="deliveries"):
        await migrate(empty_database_url)
    await connection.close()
    assert set(await tables_of(empty_database_url)) == {"deliveries"}


async def test_a_url_that_asyncpg_takes_is_migrated_too(database_url):
    # Managed databases hand out URLs with sslmode in them, and the service itself connects with those.
    url = f"{database_url}{'&' if '?' in database_url else '?'}sslmode=disable"
    assert await revision_of(url) == newest_revision()
    assert await migrate(url) == newest_revision()


@pytest.mark.parametrize("url", ["mysql://db/x", "ekabridge", ""])
async def test_a_url_of_another_kind_is_refused_by_name(url):
    with pytest.raises(ValueError, match="DATABASE_URL"):
        await migrate(url)


async def test_a_database_without_our_schema_is_not_ready_and_says_what_to_do(empty_database_url):
    async with open_stores(make_settings(empty_database_url, "redis://unused")) as stores:
        with pytest.raises(StoreUnavailable, match="ekabridge migrate"):
            await ping_store(stores)


async def test_a_database_that_is_away_is_told_as_such():
    database = Database("postgresql://nobody@127.0.0.1:1/none", size=2, statement_cache_size=10)
    with pytest.raises(StoreUnavailable):
        await database.ping()
    await database.open()
    with pytest.raises(StoreUnavailable):
        await database.ping()
    await database.close()


async def test_a_connection_that_was_cut_is_told_as_away_and_the_next_one_works(house):
    with pytest.raises(StoreUnavailable):  # noqa: PT012 - the block is what is interrupted
        async with house.stores.database.transaction() as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await house.connection.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await connection.fetchval("SELECT 1")
    await house.stores.database.ping()
    assert await house.stores.database.revision() == newest_revision()


async def at_revision(url: str, revision: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
    await connection.close()


async def check(url: str) -> str:
    return await check_schema(url, 100, 0, print)


async def test_a_schema_of_this_version_is_new_enough(database_url):
    assert await check(database_url) == newest_revision()


async def test_no_schema_and_an_older_one_are_not_new_enough(empty_database_url):
    with pytest.raises(StoreUnavailable, match="no schema"):
        await check(empty_database_url)
    await migrate(empty_database_url)
    await at_revision(empty_database_url, "0001")
    with pytest.raises(StoreUnavailable, match=f"the schema is 0001, this version wants {newest_revision()}"):
        await check(empty_database_url)


async def test_who_waits_for_the_schema_goes_on_when_it_is_there(empty_database_url):
    said: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(check_schema(empty_database_url, 100, 60, said.put_nowait))
    async with asyncio.timeout(30):
        assert await said.get() == "waiting: the database has no schema: run `ekabridge migrate`"
    await migrate(empty_database_url)
    assert await waiting == newest_revision()
    assert said.empty()


async def test_a_schema_of_a_newer_version_is_left_as_it_is_and_new_enough(database_url):
    # A rollback: the old version's migration and its pods meet what the new one made.
    await at_revision(database_url, "9999")
    assert await migrate(database_url) == "9999"
    assert await check(database_url) == "9999"
    assert await revision_of(database_url) == "9999"


async def test_a_database_that_is_away_is_told_when_the_wait_is_over():
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await check("postgresql://nobody@127.0.0.1:1/none")
