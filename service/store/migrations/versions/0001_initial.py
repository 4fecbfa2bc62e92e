"""The first schema: tenants, sessions, chunks, webhook events, fetches, documents, deliveries, audit."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
