"""What an endpoint may do to us after it has accepted: the status stands, whatever becomes of the body."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from uuid import uuid4

import msgspec
import pytest

from service.domain.clock import SystemClock
from service.domain.deliveries.attempts import judge
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.errors import StoreUnavailable
from service.domain.ids import DeliveryId, DestinationId, Lease, TenantId
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import GuardedBackend
from tests.support.makers import wanted

STALLS = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"
BREAKS = b"HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\n{"
GARBLED = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"
REFUSES = b"HTTP/1.1 422 No\r\ncontent-length: 10\r\n\r\n{"


@asynccontextmanager
async def endpoint(answer: bytes, *, hangs_up: bool) -> AsyncIterator[str]:
    """An endpoint that says this and then hangs up, or nothing more."""
    over = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with suppress(ConnectionError):
            await writer.drain()
        if not hangs_up:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    finally:
        over.set()
        server.close()


def make_job(url: str) -> DeliveryJob:
    return DeliveryJob(
        id=DeliveryId("msg_1"),
        lease=Lease(uuid4()),
        tenant_id=TenantId("ten_1"),
        session_id=None,
        destination_id=DestinationId("dst_1"),
        type="ping",
        attempts=0,
        scheduled=0,
        body=b"{}",
        url=url,
        headers={},
        secrets=["whsec_" + "A" * 43 + "="],
        timeout_seconds=None,
    )


@pytest.fixture
async def sender() -> AsyncIterator[Callable[[str], object]]:
    made = HttpSender(backend=GuardedBackend(allow_private=True), clock=SystemClock(), timeout_seconds=5)
    yield lambda url: made.send(make_job(url), wanted)
    await made.close()


@pytest.mark.parametrize("fields", [{"format": "hl7v2"}, {"payload": "digest"}, {"auth": "negotiate"}])
async def test_what_a_newer_version_stored_is_a_failed_attempt_and_nothing_is_sent(fields) -> None:
    made = HttpSender(backend=GuardedBackend(allow_private=True), clock=SystemClock(), timeout_seconds=5)
    async with endpoint(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", hangs_up=True) as url:
        job = msgspec.structs.replace(make_job(url), body=b'{"type":"ping"}', **fields)
        outcome = await made.send(job, wanted)
    await made.close()
    assert isinstance(outcome, CallFailure)
    assert outcome.error_class == "form"


@pytest.mark.parametrize(
    ("answer", "hangs_up", "kind"),
    [
        (STALLS, False, "delivered"),
        (BREAKS, True, "delivered"),
        (GARBLED, True, "delivered"),
        (REFUSES, True, "dead"),
    ],
)
async def test_the_status_stands_whatever_becomes_of_the_body(sender, answer, hangs_up, kind) -> None:
    async with endpoint(answer, hangs_up=hangs_up) as url:
        outcome = await sender(url)
    assert isinstance(outcome, Answer)
    assert judge(outcome, DeliveryId("msg_1")).kind == kind


def nested_gzip() -> bytes:
    """Some kilobytes of which three decoders on top of each other make 1 GB, and no content."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    # A file's name, which a gzip header may hold and which has no limit.
    begun = packer.compress(b"\x1f\x8b\x08\x08" + bytes(6)) + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(b"a" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(begun + more * 1024)


async def test_layers_of_compression_do_not_stop_the_process(sender) -> None:
    """The library decompresses them in one go: meanwhile no time-out fires, and no other call goes on."""
    body = nested_gzip()
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip, gzip, gzip\r\ncontent-length: {len(body)}\r\n\r\n"
    over = asyncio.Event()

    async def longest_stop() -> float:
        longest = 0.0
        while not over.is_set():
            looked = monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, monotonic() - looked)
        return longest

    async with endpoint(head.encode() + body, hangs_up=True) as url:
        watching = asyncio.create_task(longest_stop())
        outcome = await sender(url)
        over.set()
        assert await watching < 0.5
    assert isinstance(outcome, Answer)
    assert outcome.status_code == 200


@asynccontextmanager
async def talker(say: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """An endpoint that says what it likes for as long as it is listened to."""

    ended = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await say(writer)
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    finally:
        await asyncio.wait_for(ended.wait(), 5)  # it was hung up on
        server.close()


async def drip_head(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x-slow: " + b"y" * 10_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


async def drip_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.2)


async def say_nothing(writer: asyncio.StreamWriter) -> None:
    while True:  # an interim answer is none, and tells us when we are hung up on
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.2)


async def send_to(url: str, limit: float) -> tuple[object, float]:
    made = HttpSender(backend=GuardedBackend(allow_private=True), clock=SystemClock(), timeout_seconds=limit)
    started = monotonic()
    outcome = await made.send(make_job(url), wanted)
    took = monotonic() - started
    await made.close()
    return outcome, took


@pytest.mark.parametrize("say", [drip_head, say_nothing])
async def test_an_endpoint_that_drips_or_never_answers_is_a_time_out(say) -> None:
    async with talker(say) as url:
        outcome, took = await send_to(url, 1)
    assert isinstance(outcome, CallFailure)
    assert outcome.error_class == "timeout"
    assert judge(outcome, DeliveryId("msg_1")).kind == "retry"
    assert 0.9 < took < 3


async def test_a_body_that_drips_is_listened_to_for_a_while_only() -> None:
    async with talker(drip_body) as url:
        outcome, took = await send_to(url, 20)
    assert isinstance(outcome, Answer)
    assert outcome.status_code == 200
    assert took < 4


async def test_of_an_answer_of_100_megabytes_only_the_beginning_is_read() -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        piece = bytes(100_000)
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with talker(flood) as url:
        outcome, took = await send_to(url, 20)
    assert isinstance(outcome, Answer)
    assert outcome.size == 65_536
    assert sent < 20_000_000  # what the sockets' buffers took
    assert took < 4


class Watched:
    """A destination that counts connections and keeps every byte."""

    def __init__(self) -> None:
        self.url = ""
        self.connected = asyncio.Event()
        self.got = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.set()
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                self.got += piece
                if b"{}" in self.got:
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    yield made
    server.close()


@pytest.mark.parametrize("may", [True, False])
async def test_it_is_asked_once_more_when_the_connection_stands_and_nothing_has_left(
    watched: Watched, *, may: bool
) -> None:
    async def may_leave() -> bool:
        await watched.connected.wait()
        assert watched.got == b""
        return may

    sender = HttpSender(backend=GuardedBackend(allow_private=True), clock=SystemClock(), timeout_seconds=5)
    outcome = await sender.send(make_job(watched.url), may_leave)
    if may:
        assert isinstance(outcome, Answer)
        assert b"{}" in watched.got
        # A connection that was kept is no reason not to ask.
        watched.got = b""
        assert isinstance(await sender.send(make_job(watched.url), may_leave), Answer)
    else:
        assert isinstance(outcome, CallFailure)
        assert (outcome.is_withheld, outcome.error_class) == (True, "withheld")
    await sender.close()
    assert may is (watched.got != b"")


async def test_while_the_database_is_away_nothing_leaves_unasked(watched: Watched) -> None:
    async def may_leave() -> bool:
        raise StoreUnavailable("away")

    sender = HttpSender(backend=GuardedBackend(allow_private=True), clock=SystemClock(), timeout_seconds=5)
    with pytest.raises(StoreUnavailable):
        await sender.send(make_job(watched.url), may_leave)
    await sender.close()
    assert watched.got == b""
