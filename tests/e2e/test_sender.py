"""What an endpoint may do to us after it has accepted: the status stands, whatever becomes of the body."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest

from service.clock import SystemClock
from service.domain.forwarding import judge
from service.domain.ids import DeliveryId, DestinationId, Lease, TenantId
from service.domain.records import Answer, DeliveryJob
from service.forwarding.guard import GuardedBackend
from service.forwarding.sender import HttpSender

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
    yield lambda url: made.send(make_job(url))
    await made.close()


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
