"""With AUDIO_STORE_URL everything about held audio is the same, but its bytes are in the object store."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api_calls import clear_faults
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until

AWAY = {"mode": "reset", "times": None}


@pytest.fixture
async def bridge(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Bridge]:
    url = f"file://{tmp_path}/audio"
    async with open_bridge(database_url, redis_url, audio_store_url=url) as opened:
        yield opened


def objects_in(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (folder / "audio").rglob("*") if path.is_file()]


async def test_held_audio_is_handed_over_from_the_object_store(bridge: Bridge, tmp_path: Path) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", **AWAY)
    sound = os.urandom(2_500_000)
    assert (await bridge.put(session["id"], 0, sound)).json()["state"] == "held"
    objects = objects_in(tmp_path)
    assert len(objects) == 3
    assert all(sound[:64] not in each for each in objects)
    kept = await bridge.api.get(f"/v1/sessions/{session['id']}/recording")
    assert kept.content == sound
    assert (await bridge.end(session["id"], chunks=1)).status_code == 202

    await clear_faults(bridge)
    await bridge.start_worker()
    completed = await bridge.reach(session["id"], "completed")
    assert completed["chunks_received"] == 1
    (file,) = (await bridge.seen(session["id"]))["files"]
    assert file["bytes"] == len(sound)

    async def are_objects_gone() -> bool:
        return objects_in(tmp_path) == []

    await until(are_objects_gone)


async def test_an_erasure_reaches_the_object_store(bridge: Bridge, tmp_path: Path) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/sessions/", **AWAY)
    assert (await bridge.put(session["id"], 0, b"secret")).json()["state"] == "held"
    assert (await bridge.api.delete(f"/v1/sessions/{session['id']}")).status_code == 202
    await bridge.start_worker()

    async def are_objects_gone() -> bool:
        return objects_in(tmp_path) == []

    await until(are_objects_gone)
