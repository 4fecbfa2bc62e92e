"""The short form of `make chaos`: one seed for each character of the vendor, the same oracle."""

import logging
from pathlib import Path

import pytest

from service.sandbox.vendor.characters import CharacterName
from tests.tools.chaos.run import complaint, run_seed

log = logging.getLogger(__name__)
# Of each character: a seed, and for how many seconds things go wrong. July and August are shorter: what they
# add is their login, their wire and the missing webhooks, not another order of disturbances.
RUNS: list[tuple[CharacterName, int, float]] = [
    ("hosted", 4, 20.0),
    ("onprem-2026-07", 5, 8.0),
    ("onprem-2026-08", 6, 8.0),
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("character", "seed", "seconds"), RUNS)
async def test_a_seeded_run_loses_nothing_and_doubles_nothing_without_a_cause(
    character: CharacterName, seed: int, seconds: float, tmp_path: Path
) -> None:
    outcome = await run_seed(
        seed, tmp_path, seconds=seconds, dictating=4, say=log.info, hurry=True, character=character
    )
    figures = outcome.findings.figures
    assert not outcome.findings.violations, complaint(outcome)
    assert figures["dictations"] > 0
    assert figures["ledger_looks"] > 0
