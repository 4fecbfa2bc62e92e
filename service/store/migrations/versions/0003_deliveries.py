"""Deliveries an EMR can trust: version order, rates, breakers, rotation, retention."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
