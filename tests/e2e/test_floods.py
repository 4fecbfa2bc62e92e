"""A flood of slow and of huge clients costs a real process little memory, and others are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psutil
import pytest

from tests.api.asking import wire
from tests.e2e.rig import Rig, open_rig, until

UPLOADS = 64
UPLOAD_BYTES = 4_000_000
SLOW = 200
# Held in memory, the audio alone would be 256 MB.
GROWTH_LIMIT_BYTES = 150_000_000


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


async def test_memory_is_bounded_and_others_are_served(rig: Rig) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    process = psutil.Process(service.process.pid)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    path = f"/v1/sessions/{session_id}/audio"
    wav = {"content-type": "audio/wav"}
    assert (await api.put(f"{path}/0", content=b"warm", headers=wav)).status_code == 200
    rest = peak = process.memory_info().rss

    async def uploads_are(count: int) -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        metrics = (await api.get("/metrics")).text
        return f'ekabridge_requests_in_work{{kind="uploads"}} {float(count)}' in metrics

    async with AsyncExitStack() as stack:
        for number in range(SLOW):
            slow = await stack.enter_async_context(wire(service.url))
            half = b"\r\n" + bytes(30_000) if number % 2 else b"X-A: " + b"a" * 30_000
            await slow.send(b"POST /v1/sessions HTTP/1.1\r\nHost: test\r\nContent-Length: 60000\r\n" + half)

        async def all_but_the_end(sequence: int) -> None:
            client = await stack.enter_async_context(wire(service.url))
            head = f"PUT {path}/{sequence} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {rig.key}\r\n"
            head += f"Content-Type: audio/wav\r\nContent-Length: {UPLOAD_BYTES + 1}\r\n\r\n"
            await client.send(head.encode(), bytes(UPLOAD_BYTES))

        await asyncio.gather(*(all_but_the_end(sequence) for sequence in range(1, UPLOADS + 1)))
        await until(lambda: uploads_are(UPLOADS), 40)
        assert (await api.get(f"/v1/sessions/{session_id}")).status_code == 200
        assert (await api.post("/v1/sessions", json={})).status_code == 201
    await until(lambda: uploads_are(0), 40)
    assert peak - rest < GROWTH_LIMIT_BYTES
    assert (await api.put(f"{path}/100", content=b"again", headers=wav)).status_code == 200
    assert await service.stop() == 0
