"""Nothing of a body may ever be read as a head, nor the reverse, however the network cuts the stream."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from service.http_server.graceful_shutdown import DrainingHttpProtocol
from service.http_server.server import CONNECTION_OPTIONS
from service.sandbox.serving import serve_app
from tests.support.api_calls import wire
from tests.support.limited_server import CHUNKED, GET, POST, Echo, refuses, serving, until_inside

EVIL = b"GET /evil HTTP/1.1\r\nHost: test\r\n\r\n"
EARLY = POST.replace(b"/x", b"/early")
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"

Seen = tuple[str, str, bytes | None]


class Recorder:
    """Notes each request as it was understood; `/early` is answered before its body is read."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body: bytes | None = None
        if scope["path"] != "/early":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    body = None
                    break
                body, more = body + message["body"], message["more_body"]
        self.seen.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"!", "more_body": False})


class Pretended(asyncio.Transport):
    """A client's end of a connection, on which each read is exactly what the test says."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.is_paused = self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close


async def played(kind: type[DrainingHttpProtocol], reads: Sequence[bytes]) -> tuple[list[Seen], bytes]:
    """What the application sees and the client gets when the connection is read in these pieces."""
    app, transport = Recorder(), Pretended()
    config = uvicorn.Config(
        app, **(CONNECTION_OPTIONS | {"http": kind, "lifespan": "off", "log_config": None})
    )
    config.load()
    connection = kind(config, ServerState(), {})
    connection.connection_made(transport)
    try:
        for read in reads:
            for turn in range(200):
                await asyncio.sleep(0)
                if turn > 3 and not transport.is_paused:
                    break
            if transport.is_closed:
                break
            connection.data_received(read)
        for _ in range(50):
            await asyncio.sleep(0)
    finally:
        connection.connection_lost(None)
    for task in list(connection.tasks):
        await task
    return app.seen, re.sub(rb"req_\w+|\r\nx-request-id: \S+", b"", bytes(transport.written))


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(ends)]


def sized(head: bytes, body: bytes) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes) -> bytes:
    return CHUNKED + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


# How a request is written, and how it must be understood.
Made = tuple[bytes, Seen]
KINDS: list[Callable[[bytes], Made]] = [
    lambda body: (sized(POST, body), ("POST", "/x", body)),
    lambda body: (sized(POST + b"Expect: 100-continue\r\n", body), ("POST", "/x", body)),
    lambda body: (sized(EARLY, body), ("POST", "/early", None)),
    lambda body: (chunked(body), ("POST", "/x", body)),
    lambda body: (sized(POST + H2C, body), ("POST", "/x", body)),
    lambda body: (sized(GET[:-2] + WEBSOCKET, body), ("GET", "/x", body)),
    lambda body: (sized(GET[:-2], body), ("GET", "/x", body)),
    lambda _: (GET, ("GET", "/x", b"")),
    lambda _: (GET[:-2] + H2C + b"\r\n", ("GET", "/x", b"")),
]
BODIES = st.lists(
    st.sampled_from([EVIL, CHUNKED, b"0\r\n\r\n", b"\r\n", b"POST /x HTTP/1.1\r\nContent-Le", b"a" * 3000])
    | st.binary(max_size=20),
    max_size=5,
).map(b"".join)
REQUESTS = st.builds(lambda kind, body: kind(body), st.sampled_from(KINDS), BODIES)
TAILS = st.sampled_from([b"", b"nonsense\r\n\r\n", b"\x00", b"GET /x HTTP/1.1\r\nHost: te", EVIL[:-2]])


@settings(max_examples=150, deadline=None)
@given(made=st.lists(REQUESTS, max_size=5), tail=TAILS, places=st.lists(st.integers(0, 50_000), max_size=20))
async def test_every_request_is_understood_however_it_is_cut(
    made: list[Made], tail: bytes, places: list[int]
) -> None:
    stream = b"".join(written for written, _ in made)
    reads = [*cut(stream, places), tail] if tail else cut(stream, places)
    seen, answers = await played(DrainingHttpProtocol, reads)
    assert seen == [understood for _, understood in made]
    assert answers.count(b"HTTP/1.1 200 OK") == len(made)
    is_refused = tail.startswith((b"nonsense", b"\x00"))
    assert answers.count(b"HTTP/1.1 400") == is_refused


async def test_a_body_may_be_cut_anywhere() -> None:
    made = [kind(EVIL) for kind in (KINDS[0], KINDS[4], KINDS[2], KINDS[3], KINDS[0], KINDS[7])]
    stream = b"".join(written for written, _ in made)
    expected = [understood for _, understood in made]
    for place in range(len(stream)):
        seen, _ = await played(DrainingHttpProtocol, cut(stream, [place]))
        assert seen == expected
    seen, _ = await played(DrainingHttpProtocol, [stream[at : at + 1] for at in range(len(stream))])
    assert seen == expected


@pytest.mark.parametrize(
    "length",
    [b"-3", b"0x3", b"3_0", b"3 3", b"3;", b"", b"\xb2", b"9" * 20, b"9" * 5000, b"0" * 5000 + b"3", b"3.0"],
)
async def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    async with serving() as (app, url):
        await refuses(url, 400, "invalid_request", POST + b"Content-Length: " + length + b"\r\n\r\n" + EVIL)
        assert app.headers == []


@pytest.mark.parametrize("first", [b"abcdef", EVIL * 3_000])
@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nContent-Length : 3\r\n",
    ],
)
async def test_what_follows_a_body_is_checked_as_strictly_as_what_came_first(
    first: bytes, fields: bytes
) -> None:
    async with serving() as (app, url), wire(url) as client:
        await client.send(sized(POST, first) + POST + fields + b"\r\n" + EVIL)
        assert (await client.answer()).body == b"POST %d" % len(first)
        # Told or, while the first answer is due, not told: in any case nothing more is served.
        assert b"HTTP/1.1 200" not in await client.closed()
        assert len(app.headers) == 1


async def test_zeros_before_a_length_do_not_count() -> None:
    async with serving() as (_, url), wire(url) as client:
        await client.send(POST + b"Content-Length: 00006\r\n\r\nabc")
        await client.send(b"def" + POST + b"Content-Length: 0\r\n\r\n" + GET)
        assert [(await client.answer()).body for _ in range(3)] == [b"POST 6", b"POST 0", b"GET 0"]


async def test_a_large_body_leaves_the_connection_to_the_next_request() -> None:
    large = EVIL * 30_000
    async with serving() as (app, url), wire(url) as client:
        for _ in range(2):
            await client.send(sized(POST, large) + GET)
            assert (await client.answer()).body == b"POST %d" % len(large)
            assert (await client.answer()).body == b"GET 0"
        await client.send(sized(POST + b"Connection: close\r\n", large))
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.closed() == b""
        assert len(app.headers) == 5


async def test_whoever_waits_to_be_let_on_is_let_on_and_may_be_answered_instead() -> None:
    expecting = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(EVIL)
    async with serving() as (_, url), wire(url) as client:
        await client.send(POST + expecting)
        async with asyncio.timeout(8):
            assert await client._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(EVIL)
        assert (await client.answer()).body == b"POST %d" % len(EVIL)
        await client.send(EARLY + expecting)
        assert (await client.answer()).body == b"POST 0"
        await client.send(EVIL + GET)  # what was announced is still a body, and nobody wants it
        assert (await client.answer()).body == b"GET 0"


async def test_many_small_pieces_of_one_read_are_put_together_once() -> None:
    """Each piece was once added to a copy of all before it."""
    kept: list[Any] = []

    class Watched(DrainingHttpProtocol):
        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            if not any(self.cycle.body is each for each in kept):
                kept.append(self.cycle.body)

    seen, _ = await played(Watched, [CHUNKED + b"1\r\nX\r\n" * 2_000, b"0\r\n\r\n"])
    assert seen == [("POST", "/x", b"X" * 2_000)]
    assert len(kept) <= 2


@asynccontextmanager
async def briefly_kept() -> AsyncIterator[tuple[Echo, str]]:
    """A server that keeps a connection on which nothing is asked for a moment only."""
    app = Echo()
    async with serve_app(app, **(CONNECTION_OPTIONS | {"lifespan": "off", "timeout_keep_alive": 0.2})) as url:
        yield app, url


async def outlast_an_idle_connection(url: str) -> None:
    """Wait until a connection that begins to be idle now is closed for it."""
    async with wire(url) as idle:
        await idle.send(GET)
        assert (await idle.answer()).body == b"GET 0"
        assert await idle.closed() == b""


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (EARLY + b"Content-Length: 6\r\n\r\nabc", b"def"),
        (EARLY + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nX\r\n0\r\n\r\n"),
    ],
    ids=["sized", "chunked"],
)
async def test_what_was_answered_before_it_was_whole_keeps_its_connection_no_longer_than_others(
    head: bytes, rest: bytes
) -> None:
    """Such a connection stayed open for ever."""
    async with briefly_kept() as (app, url), wire(url) as client:
        await client.send(head)
        assert (await client.answer()).body == b"POST 0"
        await client.send(rest)
        assert await client.closed() == b""
    async with briefly_kept() as (app, url), wire(url) as client:
        await client.send(head)
        assert (await client.answer()).body == b"POST 0"
        # Neither who still sends nor who is being served is idle.
        await client.send(rest[:1])
        await outlast_an_idle_connection(url)
        await client.send(rest[1:] + GET.replace(b"/x", b"/gate"))
        await until_inside(app, 1)
        await outlast_an_idle_connection(url)
        app.gate.set()
        assert (await client.answer()).body == b"GET 0"
