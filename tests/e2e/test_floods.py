"""A flood of slow and of huge clients costs a real process little memory, and others are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.api_calls import wire
from tests.support.rig import Rig, open_rig, until
from tests.tools.chaos.attacks import EndlessVendor, attacking, fill, work
from tests.tools.chaos.overload import Caller, Tally

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


async def test_strangers_who_drip_cost_nobody_a_call(rig: Rig) -> None:
    """Two hundred of them, with logins, webhooks, forms and calls, against twenty places."""
    service = await rig.serve(max_requests="16", max_uploads="4", rate_limit_per_second="0")
    port = urlsplit(service.url).port or 0
    caller = Caller(port, Tally())
    async with attacking(port, 200) as told:
        await work(caller, rig.key, 6.0)
    caller.close()
    assert told["alive"] > 100
    assert len(caller.tally.accepted) > 20
    assert not caller.tally.refused
    assert not caller.tally.others
    assert caller.tally.broken == 0
    assert await service.stop() == 0


async def test_readers_endless_answers_and_uploads_together_stay_under_the_ceiling(rig: Rig) -> None:
    vendor = await rig.stack.enter_async_context(EndlessVendor(rig.vendor_url))
    service = await rig.serve(eka_base_url=vendor.url, rate_limit_per_second="0")
    _, memory, told = await fill(rig, service, vendor, readers=60, endless=20, uploads=20, seconds=10.0)
    assert memory.peak < 330  # of 400 MB with all of them: `make attacks`
    assert told["200"] > 0
    assert told["503"] > 0
    assert await service.stop() == 0
