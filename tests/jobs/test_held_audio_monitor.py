"""The figures of held audio: who counts shows them, and chunks count when they are held and handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import REGISTRY

from service.bootstrap.container import open_stores
from service.domain.ids import SessionId
from service.jobs.monitors.held_audio import HeldAudioMonitor
from tests.support.bridge import make_settings
from tests.support.makers import make_lease
from tests.support.rig import until
from tests.support.store_house import House, new_tenant

LIMIT = 10_485_760


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    connection = await asyncpg.connect(database_url)
    async with open_stores(make_settings(database_url, "redis://unused")) as stores:
        yield House(stores=stores, connection=connection, tenant_id=await new_tenant(stores))
    await connection.close()


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"ekabridge_{name}", labels)


async def hand_over(house: House, session_id: SessionId, *, is_stored: bool) -> None:
    lease = make_lease()
    await house.connection.execute("UPDATE sessions SET owed_lease = $2 WHERE id = $1", session_id, lease)
    chunk = await house.stores.held_audio.next_held(session_id, lease)
    assert chunk is not None
    assert await house.stores.held_audio.record_handed_over(chunk, lease, is_stored=is_stored)


async def test_held_and_kept_audio_and_the_oldest_are_shown_while_this_process_counts(house: House) -> None:
    held, over = await house.create(), await house.create()
    created = await house.insert()
    await house.hold_chunk(held, 0, b"12345")
    await house.hold_chunk(over, 0, b"123")
    await house.connection.execute(
        "UPDATE sessions SET held_since = NULL, owed = NULL, owed_next_at = NULL WHERE id = $1", over
    )
    for session_id, minutes in ((held, 5), (created, 20)):
        await house.connection.execute(
            "UPDATE sessions SET held_since = now() - $2 * interval '1 minute' WHERE id = $1",
            *(session_id, minutes),
        )
    monitor = HeldAudioMonitor(
        leases=house.stores.leases,
        held_audio=house.stores.held_audio,
        max_held_bytes=LIMIT,
        interval_seconds=0.01,
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(monitor.run(stopping))

    async def is_counted() -> bool:
        return shown("held_audio_bytes", state="held") is not None

    await until(is_counted)
    assert shown("held_audio_bytes", state="held") == 5
    assert shown("held_audio_bytes", state="kept") == 3
    assert shown("held_audio_limit_bytes") == LIMIT
    assert 300 <= (shown("held_audio_oldest_seconds", call="audio") or 0) < 360
    assert 1200 <= (shown("held_audio_oldest_seconds", call="create") or 0) < 1260
    stopping.set()
    await running
    assert shown("held_audio_bytes", state="held") is None
    assert shown("held_audio_oldest_seconds", call="audio") is None


async def test_chunks_count_when_they_are_held_and_when_they_are_handed_over(house: House) -> None:
    names = (
        ("audio_held_total", {}),
        *(("audio_handed_over_total", {"outcome": outcome}) for outcome in ("stored", "refused")),
    )

    def counts() -> list[float]:
        return [shown(name, **labels) or 0 for name, labels in names]

    before = counts()
    session_id = await house.create()
    for sequence in range(3):
        await house.hold_chunk(session_id, sequence)
    await hand_over(house, session_id, is_stored=True)
    await hand_over(house, session_id, is_stored=False)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [3, 1, 1]
