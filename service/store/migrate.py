"""Brings a database to the newest schema; safe to run twice and from two pods at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from asyncpg import PostgresError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.store.database import store_error

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 0x656B61  # any number that nobody else locks; this one spells "eka"


async def migrate(database_url: str) -> str:
    """Apply every migration that is missing and return the revision that the database has now.

    All of it is one transaction under an advisory lock of that transaction: a second caller waits for the
    first, then finds nothing to do; a failure leaves the schema as it was. Raises StoreUnavailable.
    """
    engine = create_async_engine(_sqlalchemy_url(database_url), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            return await connection.run_sync(_upgrade)
    except (PostgresError, OSError) as error:
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


def _sqlalchemy_url(database_url: str) -> str:
    scheme, separator, rest = database_url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql"}:
        raise ValueError("DATABASE_URL must start with postgresql://")
    return f"postgresql+asyncpg://{rest}"
