"""Whole recordings, which a worker cuts into chunks."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
