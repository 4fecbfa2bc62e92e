"""`make chaos`: all crash points, then seeded runs; `--write` puts the figures into docs/reliability.md."""

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from service.sandbox.vendor.characters import CharacterName
from tests.support.characters import CHARACTERS
from tests.tools.chaos.run import Outcome, complaint, run_seed

REPORT = Path(__file__).parents[3] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"


def main() -> int:
    """Run what was asked for; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.chaos.main_job", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--minutes", type=float, default=5.0, help="of disturbances for each seed")
    parser.add_argument("--dictations", type=int, default=12, help="how many EMR clients dictate at once")
    parser.add_argument(
        "--character", choices=CHARACTERS, default="hosted", help="which server the vendor is"
    )
    parser.add_argument("--points", action="store_true", help="first a kill at every crash point")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reliability.md")
    options = parser.parse_args()
    failed = False
    if options.points:
        command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/chaos/test_crash_points.py"]
        environment = os.environ | {"CHAOS": "whole", "CHARACTER": options.character}
        failed = subprocess.run(command, env=environment, check=False).returncode != 0
    outcomes = []
    for seed in range(options.seed, options.seed + options.seeds):
        outcome = asyncio.run(_run(seed, options.minutes * 60, options.dictations, options.character))
        outcomes.append(outcome)
        failed = failed or bool(outcome.findings.violations)
        _say(complaint(outcome) if outcome.findings.violations else _row(outcome))
    _say(_figures(outcomes, options.minutes))
    if options.write:
        _write(_figures(outcomes, options.minutes))
    return int(failed)


async def _run(seed: int, seconds: float, dictating: int, character: CharacterName) -> Outcome:
    began = time.monotonic()

    def say(line: str) -> None:
        _say(f"[{time.monotonic() - began:6.1f}] {line}")

    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))  # the plan and the logs stay
    return await run_seed(seed, folder, seconds=seconds, dictating=dictating, say=say, character=character)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _row(outcome: Outcome) -> str:
    figures = outcome.findings.figures
    names = ("dictations", "documents", "kills", "duplicates", "gets", "extra_gets", "ledger_looks")
    columns = [str(outcome.seed), str(sum(outcome.disturbances.values()))]
    columns += [str(figures[name]) for name in names]
    columns.append("none" if not outcome.findings.violations else str(len(outcome.findings.violations)))
    return f"| {' | '.join(columns)} |"


def _figures(outcomes: list[Outcome], minutes: float) -> str:
    head = (
        "| seed | disturbances | dictations ended | documents | kills | delivered again, with a cause "
        "| whole answers to GET | of these again, with a cause | looks at the ledger | broken promises |"
    )
    kinds = sorted({kind for outcome in outcomes for kind in outcome.disturbances})
    counted = "; ".join(f"{kind} {sum(each.disturbances[kind] for each in outcomes)}" for kind in kinds)
    made = (
        f"Made by `make chaos` on {datetime.now(UTC):%Y-%m-%d}, {platform.system()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {outcomes[0].character}: {minutes:g} minutes of disturbances "
        "for each seed."
    )
    rows = [head, "|" + "---|" * 10, *map(_row, outcomes)]
    return "\n".join([made, "", *rows, "", f"Disturbances of all seeds: {counted}."])


def _write(figures: str) -> None:
    text = REPORT.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    REPORT.write_text(f"{before}{_BEGIN}\n{figures}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
