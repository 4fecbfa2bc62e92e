"""Live streams through real processes: many at once, rolled, killed, ended from another pod."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.rig import Rig, Running, open_rig, until

FRAME_BYTES = 3200


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


def address(session: dict[str, Any], service: Running) -> str:
    """The stream's address on one of several pods, as a load balancer would choose it."""
    return re.sub(r"^ws://[^/]+", service.url.replace("http", "ws", 1), session["stream_url"])


def opened(session: dict[str, Any], service: Running) -> connect:
    return connect(address(session, service), compression=None, proxy=None)


async def created(api: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await api.post("/v1/sessions", json={"upload": "stream"})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ended(api: httpx2.AsyncClient, session: dict[str, Any]) -> None:
    answer = await api.post(f"/v1/sessions/{session['id']}/end", json={})
    assert answer.status_code == 202, answer.text


async def goodbye(stream: ClientConnection) -> tuple[int | None, str]:
    async with asyncio.timeout(30):
        await stream.wait_closed()
    return stream.close_code, stream.close_reason or ""


async def test_twenty_parallel_streams_arrive_byte_for_byte(rig: Rig) -> None:
    services = await asyncio.gather(rig.serve(), rig.serve())
    await rig.worker()
    api = await rig.client(services[0])

    async def dictate(number: int) -> tuple[str, str]:
        session, sent = await created(api), hashlib.sha256()
        async with opened(session, services[number % 2]) as stream:
            for _ in range(100):
                frame = secrets.token_bytes(FRAME_BYTES)
                sent.update(frame)
                await stream.send(frame)

        async def is_heard() -> (
            bool
        ):  # on a busy machine the stand-in is slow to read what lies in its socket
            return bool((await rig.seen(session["id"]))["stream"]["frames"] == 100)

        await until(is_heard)
        await ended(api, session)
        return session["id"], sent.hexdigest()

    for session_id, sha256 in await asyncio.gather(*(dictate(number) for number in range(20))):
        seen = await rig.seen(session_id)
        assert seen["stream"]["sha256"] == sha256
        assert seen["stream"]["late_bytes"] == 0
        assert seen["end_calls"] == 1

        async def is_completed(session_id: str = session_id) -> bool:
            answer = await api.get(f"/v1/sessions/{session_id}", params={"wait": 5})
            return bool(answer.json()["status"] == "completed" and answer.json()["documents"])

        await until(is_completed)


@pytest.mark.parametrize("workers", [1, 2])
async def test_rolling_a_pod_tells_the_client_how_far_it_got_and_loses_nothing(
    rig: Rig, workers: int
) -> None:
    old, new = await rig.serve(workers=workers), await rig.serve()
    api = await rig.client(new)
    session, frames = await created(api), [secrets.token_bytes(FRAME_BYTES) for _ in range(400)]
    sent = 0
    async with opened(session, old) as stream:

        async def talk() -> None:
            nonlocal sent
            for frame in frames:
                await stream.send(frame)
                sent += 1
                await asyncio.sleep(0.005)  # as fast as speech is spoken, forty times over

        talking = asyncio.create_task(talk())

        async def is_heard() -> bool:
            return bool((await rig.seen(session["id"]))["stream"]["frames"] >= 20)

        await until(is_heard)
        stopping = asyncio.create_task(old.stop())
        code, reason = await goodbye(stream)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    assert code == 1012
    taken = int(re.findall(r"after frame (\d+)", reason)[0])
    assert 20 <= taken <= sent < len(frames)
    async with opened(session, new) as again:
        for frame in frames[taken:]:
            await again.send(frame)
    await ended(api, session)
    seen = (await rig.seen(session["id"]))["stream"]
    assert seen["sha256"] == hashlib.sha256(b"".join(frames)).hexdigest()
    assert seen["late_bytes"] == 0
    assert await stopping == 0


async def test_a_stream_of_a_killed_process_is_reopened_at_another(rig: Rig) -> None:
    services = await asyncio.gather(rig.serve(), rig.serve())
    api = await rig.client(services[1])
    session = await created(api)
    stream = await opened(session, services[0])
    await stream.send(bytes(FRAME_BYTES))

    async def is_heard() -> bool:
        return bool((await rig.seen(session["id"]))["stream"]["frames"] == 1)

    await until(is_heard)
    await services[0].kill()
    with contextlib.suppress(ConnectionClosed):
        await stream.recv()

    refusals = []

    async def is_open_again() -> bool:
        try:
            async with opened(session, services[1]) as again:
                await again.send(bytes(FRAME_BYTES))
        except InvalidStatus as refused:
            refusals.append(json.loads(refused.response.body)["code"])
            return False
        return True

    await until(is_open_again)
    assert set(refusals) <= {"stream_busy"}
    await ended(api, session)
    seen = (await rig.seen(session["id"]))["stream"]
    assert (seen["frames"], seen["late_bytes"]) == (2, 0)


async def test_ending_on_one_pod_closes_the_stream_on_another(rig: Rig) -> None:
    services = await asyncio.gather(rig.serve(), rig.serve())
    api = await rig.client(services[1])
    session = await created(api)
    async with opened(session, services[0]) as stream:
        for _ in range(10):
            await stream.send(bytes(FRAME_BYTES))
        _, told = await asyncio.gather(ended(api, session), goodbye(stream))
    assert told == (1000, "the session was ended")
    seen = await rig.seen(session["id"])
    assert (seen["stream"]["frames"], seen["stream"]["late_bytes"], seen["end_calls"]) == (10, 0, 1)


async def test_a_streams_address_is_in_no_log(rig: Rig, tmp_path: Path) -> None:
    rig.log = tmp_path / "log"
    service = await rig.serve(log_level="debug")
    api = await rig.client(service)
    session = await created(api)
    async with opened(session, service) as stream:
        await stream.send(bytes(FRAME_BYTES))
    await ended(api, session)
    with pytest.raises(InvalidStatus):
        await opened(session, service)
    assert await service.stop() == 0
    log = rig.log.read_text()
    _, _, capability = session["stream_url"].rpartition("/")
    assert "stream_ended" in log
    assert "stream_refused" in log
    assert capability not in log
    vendor_id = (await rig.seen(session["id"]))["stream"]["stream_id"]
    assert vendor_id not in log
