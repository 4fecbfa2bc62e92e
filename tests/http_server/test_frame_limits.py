"""What the frames of WebSockets may cost: many tiny ones, and ones that never end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from service.http_server.frame_limits import HELD, FrameRate, HeldBytes
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import Wire, until, wire

OPENING = (
    b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
EMPTY, PING = b"\x82\x80abcd", b"\x89\x80abcd"
MEBIBYTE = 1024 * 1024
UNFINISHED = b"\x82\xff" + MEBIBYTE.to_bytes(8, "big") + b"abcd" + bytes(MEBIBYTE - 1)


class Listener:
    """Opens each WebSocket and counts its messages."""

    def __init__(self) -> None:
        self.messages = self.open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.open += 1
        while (await receive())["type"] == "websocket.receive":
            self.messages += 1
        self.open -= 1


@asynccontextmanager
async def opened(app: Listener, count: int) -> AsyncIterator[list[Wire]]:
    """Serve the application and open so many WebSockets; they are cut in the end."""
    async with serve_app(app, **(CONNECTION_OPTIONS | {"lifespan": "off"})) as url, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(url)) for _ in range(count)]
        for client in clients:
            await client.send(OPENING)
            assert b" 101 " in await client._reader.readuntil(b"\r\n\r\n")
        try:
            yield clients
        finally:
            for client in clients:
                client._writer.transport.abort()


class Lateness:
    """How late the event loop was at most."""

    worst = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self.worst = max(self.worst, loop.time() - due)


@pytest.mark.parametrize("frame", [EMPTY, PING], ids=["empty", "ping"])
async def test_a_flood_of_tiny_frames_stops_nobody(frame: bytes) -> None:
    lateness = Lateness()
    async with opened(Listener(), 10) as clients:
        watching = asyncio.create_task(lateness.watch())
        floods = [asyncio.create_task(client.send(frame * 200_000)) for client in clients]
        await asyncio.sleep(2)
        assert lateness.worst < 0.3
        for task in (watching, *floods):
            task.cancel()


async def test_frames_that_came_too_fast_all_arrive_in_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrameRate, "all_per_second", 2_000.0)
    app = Listener()
    async with opened(app, 1) as clients:
        await clients[0].send(EMPTY * 1_000 + b"\x88\x82abcd\x62\x8a")

        async def are_here() -> bool:
            return app.messages == 1_000 and app.open == 0

        await until(are_here)


async def test_frames_that_never_end_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HELD, "max_bytes", 5 * MEBIBYTE)
    app = Listener()
    async with opened(app, 8) as clients:
        for client in clients:
            await client.send(UNFINISHED)

        async def are_cut() -> bool:
            return app.open == 4

        await until(are_cut)
        assert HELD.total <= 5 * MEBIBYTE
        await clients[-1].send(b"\0")

        async def is_whole() -> bool:
            return app.messages == 1

        await until(is_whole)
        for client in clients:
            client._writer.transport.abort()

        async def all_are_closed() -> bool:
            return app.open == 0 and HELD.total == 0

        await until(all_are_closed)


def test_connections_share_the_rate_and_each_keeps_what_a_speaker_needs() -> None:
    rates = [FrameRate(0.0) for _ in range(1000)]
    rates[0].left = 0.0
    assert rates[0].refill(0.0) > 0
    assert rates[0].refill(0.1) == 0
    assert rates[0].left == pytest.approx(10)
    for rate in rates:
        rate.end()
    alone = FrameRate(0.0)
    alone.left = 0.0
    assert alone.refill(0.01) == 0
    assert alone.left > 100


def test_of_what_is_held_the_oldest_goes_first_and_little_is_not_counted() -> None:
    held, cuts = HeldBytes(), list[str]()
    held.max_bytes = 200_000

    class Holder:
        def __init__(self, name: str) -> None:
            self.name = name

        def cut(self) -> None:
            cuts.append(self.name)

    old, new = Holder("old"), Holder("new")
    held.count(old, 100_000)
    held.count(new, 65_536)
    assert held.total == 100_000
    held.count(new, 150_000)
    assert (cuts, held.total) == (["old"], 150_000)
    held.count(new, 10)
    assert held.total == 0
