"""The OpenAPI document, played by a program that believes it: good and bad data, every operation, each role.

No answer is a failure of ours (5xx), has a status, a content type or a form that the document does not tell,
or takes what the document says is refused. The sandbox stands in for EkaScribe, and does not fail here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.bridge import WEBHOOK_SECRET, Bridge
from tests.support.examples import IS_LONG

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")
COMMAND = "from schemathesis.cli import schemathesis; schemathesis()"


async def play(house: Bridge, key: str, *options: str) -> None:
    """Play the document of a running service with that key; fails the test with what the player found."""
    headers = ["-H", f"Authorization: {key}"] if key else []
    seed = () if IS_LONG else ("--seed", "1")
    player = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, "--config-file", str(CONFIG), "--no-color",
        "run", f"{house.url}/schema/openapi.json", *headers, *seed, *options,
        cwd=ROOT,
        env=os.environ | {"PLAYED_WEBHOOK_SECRET": WEBHOOK_SECRET, "NO_PROXY": "*", "COLUMNS": "120"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        found, _ = await player.communicate()
    finally:
        if player.returncode is None:
            player.kill()
    told = found.decode(errors="replace")
    assert player.returncode == 0, told[:20_000]
    operations = [
        line.split() for line in told.splitlines() if line.strip().startswith(("Selected:", "Tested:"))
    ]
    assert operations, told[:2000]
    for _, count in operations:
        tested, _, total = count.partition("/")
        assert not total or tested == total, "some operations were left out"


@pytest.fixture
async def furnished(house: Bridge) -> Bridge:
    """A house with a finished session, its document and a delivery, where more come to be."""
    await house.start_worker()
    await house.add_destination()
    await house.reach(await house.dictate(), "processing")
    return house


def phases(short: str, examples: int) -> list[str]:
    """What is played: these phases, so many examples a phase; in the long form everything."""
    return ["-n", "500"] if IS_LONG else ["--phases", short, "-n", str(examples)]


@pytest.mark.timeout(600)
async def test_with_an_admin_s_key(furnished: Bridge) -> None:
    key = furnished.admin.headers["authorization"]
    await play(furnished, key, *phases("examples,coverage", 1))


@pytest.mark.timeout(600)
async def test_with_an_emr_s_key(furnished: Bridge) -> None:
    key = furnished.api.headers["authorization"]
    await play(furnished, key, *phases("fuzzing,stateful", 6))


@pytest.mark.timeout(600)
async def test_without_a_key(house: Bridge) -> None:
    await play(house, "", *phases("examples,fuzzing", 3))
