"""Encryption keys that are known by name, values that move to another key, an audit trail that only grows."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
