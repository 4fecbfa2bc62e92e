"""Runs a migration's SQL file, which holds many statements, on the connection that Alembic holds."""

from pathlib import Path

from alembic import op


def run_script(path: Path) -> None:
    """Run every statement of the file inside the migration's own transaction.

    A prepared statement can hold one command only, so the file goes through asyncpg's simple protocol.
    """
    script = path.read_text(encoding="utf-8")
    adapted = op.get_bind().connection.dbapi_connection
    if adapted is None:  # pragma: no cover - Alembic always hands us a live connection
        raise RuntimeError("the migration has no database connection")
    adapted.run_async(lambda connection: connection.execute(script))
