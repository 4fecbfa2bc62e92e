"""A session's whole life: streams, changes, cancelling and erasing, further documents."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
