"""An Idempotency-Key's row knows the call that it came with."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
