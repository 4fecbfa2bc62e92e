"""A destination's Retry-After outlives other deliveries' outcomes, and hanging destinations are known."""

from pathlib import Path

from service.store.migrations.script import run_script

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql"))
