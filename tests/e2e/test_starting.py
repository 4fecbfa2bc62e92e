"""A process that lacks a library that it would need only later does not start, or does not stay."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from uvicorn.config import STARTUP_FAILURE

from service.sandbox.stack import free_port
from tests.e2e.rig import Rig, open_rig


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


@pytest.mark.parametrize("library", ["aiohttp"])
async def test_a_broken_library_ends_it_before_anybody_needs_it(
    rig: Rig, tmp_path: Path, library: str
) -> None:
    (tmp_path / f"{library}.py").write_text("raise ImportError('half an installation')\n")
    path = rig.environment.get("PYTHONPATH", "")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "serve", "--port", str(free_port())),
        env=rig.environment | {"PYTHONPATH": f"{tmp_path}:{path}"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == STARTUP_FAILURE
    assert b'"library_unusable"' in said
    assert b"half an installation" not in said
