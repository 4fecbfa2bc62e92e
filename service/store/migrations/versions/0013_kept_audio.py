"""Audio that is kept is found by its age, and can be in an object store."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
