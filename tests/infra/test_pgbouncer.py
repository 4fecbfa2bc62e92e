"""The whole main job through PgBouncer in transaction mode, with fewer connections than clients."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.support.bridge import open_bridge
from tests.support.programs import pooled, program, until_open

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")


async def test_dictations_reach_the_emr_through_three_pooled_connections(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    command, url, port = pooled(database_url, tmp_path, connections=3)
    async with program(*command, cwd=tmp_path):
        await until_open(port)
        async with open_bridge(url, redis_url, database_statement_cache_size=0) as bridge:
            await bridge.add_destination()
            await bridge.start_worker()
            await asyncio.gather(*(bridge.dictate() for _ in range(8)))
            assert len(await bridge.received(8, seconds=60)) == 8
            ledger = (await bridge.admin.get("/v1/ledger")).json()
            assert (ledger["ended"], ledger["lost"]) == (8, 0)
