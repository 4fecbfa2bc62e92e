"""Migrates a database to the newest schema; safe to run twice and from two pods at once."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.domain.errors import StoreUnavailable
from service.store.database import Database
from service.store.database_state import store_error

_SCRIPTS = Path(__file__).parent / "migrations"
_LOOK_SECONDS = 1.0
_LOCK = 0x656B61  # any number that no other program locks; this one spells "eka"


async def migrate(database_url: str) -> str:
    """Apply every migration that is missing and return the revision that the database has now.

    All migrations run in one transaction, which holds an advisory lock: a second caller waits for the first
    and then finds nothing to do, and a failure leaves the schema as it was. Raises StoreUnavailable, or
    ValueError for a URL of another kind.
    """
    if not database_url.startswith(("postgresql://", "postgres://")):
        raise ValueError("DATABASE_URL must start with postgresql://")
    # asyncpg must read the URL itself: SQLAlchemy passes query parameters on in a form that asyncpg rejects.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(database_url), poolclass=NullPool
    )
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            return await connection.run_sync(_upgrade)
    except (asyncpg.PostgresError, OSError) as error:
        ours = store_error(error)
        if ours is None:
            raise
        raise ours from error
    finally:
        await engine.dispose()


def newest_revision() -> str:
    """Return the revision that this version of the code expects."""
    head = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    if head is None:  # pragma: no cover - the first migration is part of the package
        raise RuntimeError("the package carries no migrations")
    return head


async def check_schema(
    database_url: str, statement_cache_size: int, wait_seconds: float, say: Callable[[str], None]
) -> str:
    """Wait until this version can run on the schema, with a look every second; return the schema's revision.

    An unreachable database is a reason to wait as well. `say` gets each reason once. Raises StoreUnavailable
    with the last reason after `wait_seconds`.
    """
    database = Database(database_url, size=1, statement_cache_size=statement_cache_size)
    await database.open()
    try:
        return await _wait_for_schema(database, wait_seconds, say)
    finally:
        await database.close()


async def _wait_for_schema(database: Database, wait_seconds: float, say: Callable[[str], None]) -> str:
    deadline = time.monotonic() + wait_seconds
    said = ""
    while True:
        try:
            revision = await database.revision()
            if revision is not None and is_new_enough(revision):
                return revision
            problem = f"the schema is {revision}, this version wants {newest_revision()}"
        except StoreUnavailable as error:
            problem = error.detail
        if time.monotonic() >= deadline:
            raise StoreUnavailable(problem)
        if problem != said:
            say(f"waiting: {problem}")
            said = problem
        await asyncio.sleep(_LOOK_SECONDS)


def is_new_enough(revision: str) -> bool:
    """Return whether this version of the code can run on a schema of that revision.

    An unknown revision comes from a newer version. Each version keeps the schema usable for the version
    before it, so a rollback works, and so does a pod of the old version that restarts during a roll-out.
    """
    known = {script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()}
    return revision == newest_revision() or revision not in known


def _upgrade(connection: Connection) -> str:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and is_new_enough(found):
        return found
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return MigrationContext.configure(connection).get_current_revision() or ""
