"""A server with the limits of ours over an application that echoes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.http_server import assign_owner
from service.http_server.graceful_shutdown import DrainingHttpProtocol
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import PROBLEM, RawAnswer, until, wire

GET = b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n"


POST = b"POST /x HTTP/1.1\r\nHost: test\r\n"


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


LARGE = 8_000_000


class Echo:
    """Tells what came; `/large` answers a lot, `/early` before it reads, `/gate` when it is let to.

    `/of/a` tells the server whose the connection is.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.inside = 0
        self.headers: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.inside += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.inside -= 1

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            more = message["more_body"]
        if scope["path"] == "/gate":
            await self.gate.wait()
        if scope["path"].startswith("/of/") and not assign_owner(scope, scope["path"][4:]):
            body = b"too many"
        self.headers.append(scope["headers"])
        told = bytes(LARGE) if scope["path"] == "/large" else f"{scope['method']} {len(body)}".encode()
        headers = [(b"content-length", str(len(told)).encode())]
        if scope["path"] == "/early" and scope["query_string"] == b"close":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told, "more_body": False})


@asynccontextmanager
async def serving(kind: type[DrainingHttpProtocol] = DrainingHttpProtocol) -> AsyncIterator[tuple[Echo, str]]:
    app = Echo()
    options = CONNECTION_OPTIONS | {"http": kind, "lifespan": "off"}
    async with serve_app(app, **options) as url:
        yield app, url


def refused(answer: RawAnswer, status: int, code: str) -> None:
    """Check that this is a problem, whole, after which the connection closes."""
    found = json.loads(answer.body)
    assert (answer.status, found["status"], found["code"]) == (status, status, code)
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["connection"] == "close"
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["title"]
    assert found["detail"]


async def refuses(url: str, status: int, code: str, *pieces: bytes) -> None:
    async with wire(url) as client:
        await client.send(*pieces)
        refused(await client.answer(), status, code)
        assert await client.closed() == b""


async def until_inside(app: Echo, count: int) -> None:
    async def is_so() -> bool:
        return app.inside == count

    await until(is_so)
