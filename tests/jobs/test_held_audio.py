"""Held sessions that a worker of the version before left without a pending call are handed over again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.api_calls import clear_faults, until
from tests.support.bridge import Bridge, open_bridge


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    async with open_bridge(database_url, redis_url) as opened:
        yield opened


async def test_a_worker_hands_over_what_a_mixed_upgrade_forgot(bridge: Bridge) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", mode="reset", times=None)
    assert (await bridge.put(session["id"], 0, b"forgotten")).json()["state"] == "held"
    assert (await bridge.end(session["id"], chunks=1)).status_code == 202
    await clear_faults(bridge)
    await bridge.database.execute("UPDATE sessions SET owed = NULL, owed_next_at = NULL")
    assert (await bridge.api.get("/v1/ledger")).json()["lost"] == 1
    await bridge.start_worker()

    async def is_found() -> bool:
        return (await bridge.api.get("/v1/ledger")).json()["lost"] == 0

    await until(is_found)
    await bridge.reach(session["id"], "completed")
    assert [file["bytes"] for file in (await bridge.seen(session["id"]))["files"]] == [9]
