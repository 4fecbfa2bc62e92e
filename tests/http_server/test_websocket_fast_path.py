"""Frames that we read ourselves: however they are cut, they are what the library would have read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import BINARY, CLOSE, CONT, PING, TEXT, Frame, Opcode

from service.http_server.graceful_shutdown import DrainingWebSocketProtocol
from service.http_server.websocket_fast_path import on_binary_frame

MOST = 70_000
HEAD = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_over = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Socket:
    """One WebSocket and the application behind it; `take` decides which frames go the short way."""

    def __init__(self, take: Callable[[bytes], bool] | None) -> None:
        self.came: list[bytes | str | int] = []
        self.directly = 0
        self._take = take
        config = Config(
            self._serve,
            interface="asgi3",
            ws_max_size=MOST,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
            log_config=None,
        )
        config.load()
        self.wire = Wire()
        self.protocol = DrainingWebSocketProtocol(config, ServerState(), {}, asyncio.get_running_loop())

    async def open(self) -> None:
        self.protocol.connection_made(self.wire)
        self.protocol.data_received(HEAD)
        await self.settle()

    async def say(self, data: bytes) -> None:
        self.protocol.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):  # so many turns of the event loop: enough for all that came in one read
            await asyncio.sleep(0)

    def _keep(self, frame: bytes) -> bool:
        if self._take is None or not self._take(frame):
            return False
        self.came.append(frame)
        self.directly += 1
        return True

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if self._take is not None:
            on_binary_frame(scope, self._keep)
        while (message := await receive())["type"] == "websocket.receive":
            frame = message.get("bytes")
            self.came.append(message["text"] if frame is None else frame)
        self.came.append(message["code"])


def written(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


SIZES = (0, 1, 125, 126, 3200, 65_535, 65_536, MOST)
GOOD: list[bytes | str] = [
    *(bytes([size % 251]) * size for size in SIZES),
    '{"event":"mark"}',
    b"half and half",
]
PARTS = [
    *(written(BINARY, bytes([size % 251]) * size) for size in SIZES),
    written(TEXT, b'{"event":"mark"}'),
    written(BINARY, b"half ", fin=False),
    written(PING, b"still there?"),
    written(CONT, b"and half"),
]
LAST = [written(BINARY, b"the last"), written(CLOSE, b"\x03\xe8"), written(BINARY, b"too late")]


@pytest.fixture
async def socket() -> AsyncIterator[Socket]:
    opened = Socket(take=lambda _: True)
    await opened.open()
    yield opened
    opened.protocol.connection_lost(None)
    await opened.settle()


@pytest.mark.parametrize("seed", range(12))
async def test_however_the_reads_are_cut_the_frames_are_the_same_in_their_order(seed: int) -> None:
    chosen = random.Random(seed)
    socket = Socket(take=[None, lambda _: True, lambda _: chosen.random() < 0.5][seed % 3])
    await socket.open()
    whole = b"".join(PARTS + LAST)
    start = 0
    while start < len(whole):
        size = chosen.choice((1, 2, 3, 7, 150, 5_000, 300_000))
        await socket.say(whole[start : start + size])
        start += size
    assert socket.came == [*GOOD, b"the last", 1000]
    assert socket.wire.written.endswith(b"\x8a\x0cstill there?\x88\x02\x03\xe8")
    socket.protocol.connection_lost(None)


async def test_audio_goes_the_short_way_also_in_pieces_and_together(socket: Socket) -> None:
    frame = written(BINARY, bytes(3200))
    await socket.say(frame)
    await socket.say(frame[:5])
    await socket.say(frame[5:2000])
    await socket.say(frame[2000:] + frame + frame)
    assert socket.came == [bytes(3200)] * 4
    assert socket.directly == 4


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (written(BINARY, bytes(MOST + 1)), 1009),
        (b"\x82\xff" + b"\xff" * 8, 1009),
        (Frame(BINARY, b"no mask").serialize(mask=False), 1002),
        (b"\xc2\x81" + bytes(5), 1002),
        (written(CONT, b"of nothing"), 1002),
    ],
    ids=["too long", "endless", "no mask", "a bit of an extension", "a continuation of nothing"],
)
async def test_what_came_before_a_fault_is_kept_and_the_fault_is_told(
    socket: Socket, fault: bytes, code: int
) -> None:
    await socket.say(written(BINARY, b"good") + fault + written(BINARY, b"lost"))
    assert socket.came == [b"good", code]
    assert socket.wire.is_over


async def test_a_binary_frame_within_a_text_is_a_fault(socket: Socket) -> None:
    await socket.say(written(TEXT, b"half", fin=False))
    await socket.say(written(BINARY, b"not now"))
    assert socket.came == [1002]


async def test_what_comes_after_the_close_is_nothing(socket: Socket) -> None:
    await socket.say(written(CLOSE, b"\x03\xe8"))
    await socket.say(written(BINARY, b"too late"))
    assert socket.came == [1000]


async def test_a_frame_that_began_before_the_stream_was_open_is_read_to_its_end() -> None:
    socket = Socket(take=lambda _: True)
    body = b"\x82\x84\0\0\0\0soon"
    frame = b"\x82\x8a\0\0\0\0" + body  # masked with nothing: its body, by itself, looks like a frame
    socket.protocol.connection_made(socket.wire)
    socket.protocol.data_received(HEAD)
    await socket.say(frame[:6])
    await socket.say(frame[6:] + frame)
    assert socket.came == [body] * 2
    socket.protocol.connection_lost(None)
    await socket.settle()
