"""What grows without end is found by indexes, and the ledger's old days are counted once."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
