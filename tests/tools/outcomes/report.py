"""`make outcomes`: every outcome against each character of the vendor; the table of docs/outcomes.md."""

import argparse
import asyncio
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from service.sandbox.embedded.api import start_embedded
from service.sandbox.vendor.characters import CharacterName
from service.store.migrate import migrate
from tests.support.characters import CHARACTERS
from tests.support.rig import open_rig
from tests.tools.outcomes.run import OutcomeRun, Play, report

REPORT = Path(__file__).parents[3] / "docs" / "outcomes.md"
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"
_HEAD = (
    "| scenario | dictations | documents that EkaScribe has | of these delivered once | failures told "
    "| calls for a dictation, at most | allowed | seconds to the last event, at most | broken promises |"
)


def main() -> int:
    """Play all characters, write the page; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.outcomes.report", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="dictations of each scenario")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which documents are finished")
    options = parser.parse_args()
    made = (
        f"Made by `make outcomes RUNS={options.runs} SEED={options.seed}` on {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}."
    )
    sections, is_broken = [made], False
    for character in CHARACTERS:
        plays, complaints = asyncio.run(_play(character, options.runs, options.seed))
        sections += [f"### {character}", _table(character, plays)]
        wrong = [play for play in plays if play.complaints]
        is_broken = is_broken or bool(wrong or complaints)
        sys.stdout.write("\n".join([sections[-2], sections[-1], *complaints, report(wrong)]) + "\n")
        sys.stdout.flush()
    _write("\n\n".join(sections))
    return int(is_broken)


async def _play(character: CharacterName, runs: int, seed: int) -> tuple[list[Play], list[str]]:
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(start_embedded(temporary=True)).urls
        await migrate(urls.database_url)
        database = await asyncpg.connect(urls.database_url)
        stack.push_async_callback(database.close)
        opened = open_rig(urls.database_url, urls.redis_url, character=character)
        run = OutcomeRun(await stack.enter_async_context(opened), database, seed)
        return await run.play(runs), run.complaints


def _table(character: CharacterName, plays: Sequence[Play]) -> str:
    by_scenario: dict[str, list[Play]] = defaultdict(list)
    for play in plays:
        by_scenario[play.scenario].append(play)
    rows = [_row(character, scenario, played) for scenario, played in by_scenario.items()]
    return "\n".join([_HEAD, "|" + "---|" * 9, *rows])


def _row(character: CharacterName, scenario: str, plays: Sequence[Play]) -> str:
    columns = [
        scenario,
        len(plays),
        sum(play.documents for play in plays),
        sum(play.delivered for play in plays),
        sum(play.failures for play in plays),
        max(play.calls for play in plays),
        max(play.case.max_calls(character) for play in plays),
        round(max(play.seconds or 0.0 for play in plays)),
        sum(len(play.complaints) for play in plays) or "none",
    ]
    return f"| {' | '.join(map(str, columns))} |"


def _write(figures: str) -> None:
    before, _, rest = REPORT.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    REPORT.write_text(f"{before}{_BEGIN}\n{figures}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
