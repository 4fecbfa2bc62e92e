"""Which frames a vendor has received, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from service.domain.ids import DEFAULT_ACCOUNT
from service.domain.streams.sides import VendorGone
from service.eka.call_limiter import CallLimiters
from service.eka.streams import EkaStream, EkaStreams
from tests.support.makers import AT_VENDOR
from tests.support.rig import until

FRAME = bytes(3200)


class Vendor:
    """A server of streams that counts what it reads."""

    def __init__(self) -> None:
        self.frames = 0
        self.connection: ServerConnection | None = None
        self.is_gone = asyncio.Event()

    async def take(self, connection: ServerConnection) -> None:
        self.connection = connection
        try:
            async for _ in connection:
                self.frames += 1
        except ConnectionClosed:
            pass
        finally:
            self.is_gone.set()

    async def reaches(self, frames: int) -> None:
        async def has_come() -> bool:
            return self.frames >= frames

        await until(has_come)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Vendor, EkaStream]]:
    vendor = Vendor()
    async with serve(vendor.take, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        streams = EkaStreams(f"http://127.0.0.1:{port}", CallLimiters(max_calls=1))
        stream = await streams.open(DEFAULT_ACCOUNT, AT_VENDOR, f"ws://127.0.0.1:{port}/")
        yield vendor, stream
        stream.abort()


async def gone(stream: EkaStream) -> int:
    with pytest.raises(VendorGone) as caught:
        await stream.receive()
    return caught.value.code


async def quiet() -> None:
    """Let a delayed acknowledgement come, and the doubt of a round trip pass."""
    await asyncio.sleep(0.1)


async def test_a_vendor_that_answers_our_close_has_everything() -> None:
    async with connected() as (vendor, stream):
        for _ in range(50):
            assert stream.send_now(FRAME)
        await stream.close(1000)
        assert (vendor.frames, stream.unconfirmed_frames([len(FRAME)] * 4000)) == (50, 0)


async def reset(connection: ServerConnection) -> None:
    connection.transport.abort()


async def close(connection: ServerConnection) -> None:
    await connection.close(1012)


@pytest.mark.parametrize("end", [reset, close])
async def test_a_vendor_that_breaks_after_it_read_everything_lacks_nothing(
    end: Callable[[ServerConnection], Awaitable[None]],
) -> None:
    async with connected() as (vendor, stream):
        for _ in range(250):  # more than one ping
            await stream.send(FRAME)
        await vendor.reaches(250)
        await quiet()
        assert vendor.connection is not None
        await end(vendor.connection)
        await gone(stream)
        assert stream.unconfirmed_frames([len(FRAME)] * 4000) == 0


async def test_a_vendor_that_hangs_lacks_all_that_it_did_not_answer_for() -> None:
    async with connected() as (vendor, stream):
        for _ in range(67):  # the second ping follows the sixty-fifth frame
            assert stream.send_now(FRAME)
        await vendor.reaches(67)
        await quiet()
        assert vendor.connection is not None
        vendor.connection.transport.pause_reading()
        for _ in range(90):  # its host acknowledges them, and another ping that nobody answers
            stream.send_now(FRAME)
        receipts = stream._receipts
        assert receipts._asked
        receipts._asked[0].at -= 3
        stream.abort()
        await gone(stream)
        assert stream.unconfirmed_frames([len(FRAME)] * 4000) in range(90, 94)


async def test_what_the_host_never_acknowledged_is_missing() -> None:
    async with connected() as (vendor, stream):
        await stream.send(FRAME)
        await vendor.reaches(1)
        await quiet()
        assert vendor.connection is not None
        vendor.connection.transport.pause_reading()
        sent = 0
        while stream.send_now(FRAME):  # until the buffers of both hosts are full
            sent += 1
        vendor.connection.transport.abort()
        await gone(stream)
        assert 0 < stream.unconfirmed_frames([len(FRAME)] * 4000) <= sent


async def test_without_knowledge_of_tcp_only_pings_count() -> None:
    async with connected() as (vendor, stream):
        stream._receipts._sent_before = None
        for _ in range(70):
            assert stream.send_now(FRAME)
        await vendor.reaches(70)
        await quiet()
        stream._receipts._sent_before = None
        stream.abort()
        assert stream.unconfirmed_frames([len(FRAME)] * 4000) == stream._receipts.frames < 70
