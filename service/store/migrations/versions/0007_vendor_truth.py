"""Keeps the vendor's warnings and reasons beside documents, and since when a document is undecided."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
