"""The short form of `make chaos`: one seed, a few dozen disturbances, the same oracle."""

import logging
from pathlib import Path

import pytest

from tests.chaos.run import complaint, run_seed

log = logging.getLogger(__name__)
SEED = 4
SECONDS = 20.0


@pytest.mark.timeout(400)
async def test_a_seeded_run_loses_nothing_and_doubles_nothing_without_a_cause(tmp_path: Path) -> None:
    outcome = await run_seed(SEED, tmp_path, seconds=SECONDS, dictating=4, say=log.info, hurry=True)
    figures = outcome.findings.figures
    assert not outcome.findings.violations, complaint(outcome)
    assert figures["dictations"] > 0
    assert figures["ledger_looks"] > 0
