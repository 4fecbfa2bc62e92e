"""Sessions that are made again at the vendor, under another id there."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0012"
# 0011 is made on another branch; this follows it as soon as both are together.
down_revision = "0010"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
