"""Growth: indexes for what grows without end; the ledger's finished days are counted once and kept."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
