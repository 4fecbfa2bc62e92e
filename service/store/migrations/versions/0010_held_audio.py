"""Audio that ekabridge keeps until the vendor has it."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
