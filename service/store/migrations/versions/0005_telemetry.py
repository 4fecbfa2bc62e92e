"""The trace that a session belongs to, and an index for counting open streams."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
