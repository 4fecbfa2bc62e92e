"""Held audio of streams, and the times in which it was held."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0014"
# The migration before this one on the branch that this one is merged into.
down_revision = "0013"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
