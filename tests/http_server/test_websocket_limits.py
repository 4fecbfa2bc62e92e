"""What one WebSocket may cost: handshakes that open nothing, clients that send and never read."""

import asyncio
from typing import Any

import pytest

from service.http_server.graceful_shutdown import DrainingHttpProtocol
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import Wire, until, wire

UPGRADE = b"Host: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
OPENING = b"GET /x HTTP/1.1\r\n" + UPGRADE + KEY
# A masked ping of 125 bytes, and a masked frame of five.
PING = b"\x89\xfd" + bytes(129)
FRAME = b"\x82\x85" + bytes(9)


class Quick(DrainingHttpProtocol):
    """The same limits, sooner over."""

    check_seconds = 0.05
    unread_stream_seconds = 0.5


class Pourer:
    """Answers requests; opens WebSockets, and pours into each that sent a frame what nobody may read."""

    def __init__(self) -> None:
        self.open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = (await receive())["body"]
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"%d" % len(body)})
        elif scope["type"] == "websocket":
            self.open += 1
            try:
                await self._pour(receive, send)
            finally:
                self.open -= 1

    async def _pour(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if (await receive())["type"] == "websocket.receive":
            while True:
                await send({"type": "websocket.send", "bytes": bytes(500_000)})


def serving(app: Pourer, kind: type[DrainingHttpProtocol] = Quick) -> Any:
    return serve_app(app, **(CONNECTION_OPTIONS | {"http": kind, "lifespan": "off"}))


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (OPENING + b"Content-Length: 3\r\n\r\nabc", 200),
        (OPENING + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200),
        (b"POST /x HTTP/1.1\r\n" + UPGRADE + KEY + b"Content-Length: 3\r\n\r\nabc", 200),
        (OPENING + b"X-Long: " + b"a" * 9_000 + b"\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n" + UPGRADE + b"\r\n", 400),
        (OPENING + b"\r\n", 101),
    ],
    ids=["a length", "chunks", "a post", "a long line", "no key", "as it should be"],
)
async def test_whoever_asks_for_a_websocket_has_an_answer(head: bytes, status: int) -> None:
    app = Pourer()
    async with serving(app) as url:
        async with wire(url) as client:
            await client.send(head)
            line = await asyncio.wait_for(client._reader.readline(), 20)
            assert int(line.split()[1]) == status
            if status == 400:
                await client.closed()
        await until_closed(app)


async def test_whoever_pings_and_never_reads_is_cut_at_once() -> None:
    app = Pourer()
    async with serving(app, DrainingHttpProtocol) as url, wire(url) as client:
        await opened(client, app)
        # What fits into the buffers of the system and one mebibyte of ours, and then much more.
        sending = asyncio.create_task(client.send(*[PING * 1_000] * 1_000))
        await until_closed(app)
        sending.cancel()


async def test_a_client_that_reads_nothing_is_cut_and_keeps_no_place() -> None:
    app = Pourer()
    async with serving(app) as url, wire(url) as client:
        await opened(client, app)
        await client.send(FRAME)
        await until_closed(app)


async def opened(client: Wire, app: Pourer) -> None:
    """Open a WebSocket whose client never reads."""
    client._writer.transport.pause_reading()
    await client.send(OPENING + b"\r\n")

    async def is_open() -> bool:
        return app.open == 1

    await until(is_open)


async def until_closed(app: Pourer) -> None:
    async def is_closed() -> bool:
        return app.open == 0

    await until(is_closed)
