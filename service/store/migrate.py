"""Brings a database to the newest schema; safe to run twice and from two pods at once."""

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.store.database import store_error

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x656B61  # any number that nobody else locks; this one spells "eka"


async def migrate(database_url: str) -> str:
    """Apply every migration that is missing and return the revision that the database has now.

    All of it is one transaction under an advisory lock of that transaction: a second caller waits for the
    first, then finds nothing to do; a failure leaves the schema as it was. Raises StoreUnavailable, or
    ValueError for a URL of another kind.
    """
    if not database_url.startswith(("postgresql://", "postgres://")):
        raise ValueError("DATABASE_URL must start with postgresql://")
    # asyncpg reads its own URL: SQLAlchemy would hand it query parameters that it does not take that way.
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


def _upgrade(connection: Connection) -> str:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return MigrationContext.configure(connection).get_current_revision() or ""
