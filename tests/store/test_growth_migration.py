"""Migration 0006 on an installation whose operator made the indexes beforehand."""

from __future__ import annotations

import re

import asyncpg
import pytest

from service.store.migrate import _SCRIPTS, migrate, newest_revision

SCRIPT = (_SCRIPTS / "versions" / "0006_growth.sql").read_text()


async def before_growth(url: str) -> asyncpg.Connection:
    """A database of the version before, as its own migrations left it."""
    connection = await asyncpg.connect(url)
    for script in sorted((_SCRIPTS / "versions").glob("000[12345]_*.sql")):
        await connection.execute(script.read_text())
    await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    await connection.execute("INSERT INTO alembic_version VALUES ('0005')")
    return connection


async def indexes_of(connection: asyncpg.Connection) -> dict[str, int]:
    rows = await connection.fetch("SELECT indexname, indexname::regclass::oid AS id FROM pg_indexes")
    return {row["indexname"]: row["id"] for row in rows}


async def test_indexes_that_were_made_beforehand_as_the_page_says_are_left_alone(empty_database_url):
    connection = await before_growth(empty_database_url)
    made = re.findall(r"^CREATE INDEX [^;]+;", SCRIPT, re.MULTILINE)
    assert len(made) > 5
    for statement in made:
        await connection.execute(statement.replace("INDEX", "INDEX CONCURRENTLY", 1))
    before = await indexes_of(connection)
    assert await migrate(empty_database_url) == newest_revision()
    after = await indexes_of(connection)
    assert after.items() >= {n: i for n, i in before.items() if n != "sessions_newest_by_status"}.items()
    # The version before still finds what is old by it.
    assert "sessions_newest" in after
    await connection.close()


async def test_one_that_was_interrupted_is_refused_by_its_name(empty_database_url):
    connection = await before_growth(empty_database_url)
    await connection.execute("CREATE INDEX documents_by_time ON documents (tenant_id, received_at)")
    await connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'documents_by_time'::regclass"
    )
    with pytest.raises(Exception, match="documents_by_time"):
        await migrate(empty_database_url)
    await connection.execute("DROP INDEX documents_by_time")
    assert await migrate(empty_database_url) == newest_revision()
    await connection.close()
