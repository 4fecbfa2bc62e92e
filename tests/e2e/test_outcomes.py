"""Every outcome that the vendor's servers have, against each of them: the short form of `make outcomes`."""

import asyncpg
import pytest

from service.sandbox.vendor.characters import CharacterName
from tests.support.characters import CHARACTERS
from tests.support.rig import open_rig
from tests.tools.outcomes.cases import SCENARIOS
from tests.tools.outcomes.run import OutcomeRun, report

# So many of each scenario as it has variants.
RUNS = max(map(len, SCENARIOS.values()))


@pytest.mark.parametrize("character", CHARACTERS)
async def test_every_document_is_told_once_and_every_failure_with_its_reason(
    character: CharacterName, database_url: str, redis_url: str
) -> None:
    database = await asyncpg.connect(database_url)
    try:
        async with open_rig(database_url, redis_url, character=character, forks=True) as rig:
            run = OutcomeRun(rig, database, seed=1)
            plays = await run.play(RUNS)
    finally:
        await database.close()
    assert len(plays) == RUNS * len(SCENARIOS)
    assert not run.complaints, run.complaints
    wrong = [play for play in plays if play.complaints]
    assert not wrong, report(wrong)
