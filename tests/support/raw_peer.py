"""A server on loopback that does what a test writes, byte by byte, and audio to send to it."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from service.eka.audio_client import AudioClient, UploadTimeouts

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SHORT = UploadTimeouts(connect=0.3, write=0.3, read=0.3)


class Line:
    """One connection that a peer took."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.ended = asyncio.Event()

    async def head(self) -> bytes:
        """Read a request's head; b"" when no more comes."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def request(self) -> tuple[bytes, bytes]:
        """Read a whole request."""
        head = await self.head()
        return head, await self.reader.readexactly(int(header(head, "content-length") or 0))

    async def say(self, *answer: bytes) -> None:
        self.writer.write(b"".join(answer))
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Read until the other side is gone."""
        read = b""
        with suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                read = piece
        return read

    def reset(self) -> None:
        self.writer.transport.abort()


class Peer:
    """Where it listens, and what it has seen."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.lines: list[Line] = []
        self.failures: list[BaseException] = []

    def unsent_bytes(self) -> int:
        """How many bytes our side still holds for it."""
        return sum(
            each.get_write_buffer_size()
            for each in gc.get_objects()
            if issubclass(type(each), asyncio.Transport)  # a weak proxy of something gone has no class to ask
            and (each.get_extra_info("peername") or ("", 0))[1] == self.port
        )


def header(head: bytes, name: str) -> str | None:
    """The value of a header of a raw head."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


@asynccontextmanager
async def open_peer(
    talk: Callable[[Line], Awaitable[None]], *, context: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """A server that talks so on each connection; at the end of the talk it closes it."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        peer.lines.append(line)
        try:
            await talk(line)
        except Exception as failure:  # noqa: BLE001 - told at the end
            peer.failures.append(failure)
        finally:
            writer.close()
            line.ended.set()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=context)
    peer = Peer(server.sockets[0].getsockname()[1], "https" if context else "http")
    try:
        yield peer
    finally:
        server.close()
        for line in peer.lines:
            line.reset()
        async with asyncio.timeout(5):
            for line in peer.lines:
                await line.ended.wait()
    assert peer.failures == []


class Sound:
    """The domain's Audio."""

    sha256 = "0" * 64

    def __init__(self, content: bytes = b"sound", *, piece: int = 65536, size: int | None = None) -> None:
        self.content, self.piece = content, piece
        self.size = len(content) if size is None else size

    async def read(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), self.piece):
            await self.pause(start)
            yield self.content[start : start + self.piece]

    async def pause(self, at: int) -> None:
        """What happens before the piece that begins there."""


def headers_of(sound: Sound, **more: str) -> dict[str, str]:
    return {"content-type": "audio/wav", "content-length": str(sound.size), **more}


async def upload(wire: AudioClient, peer: Peer, sound: Sound, path: str = "/a") -> int:
    """Send it; the status of the answer."""
    answer = await wire.send(peer.url + path, headers_of(sound, authorization="Bearer t"), sound)
    return answer.status


async def settle() -> None:
    """Let what lies in sockets of this process be read."""
    for _ in range(20):
        await asyncio.sleep(0)


async def answer_all(line: Line) -> None:
    """A vendor that takes whatever comes."""
    while (await line.request())[0]:
        await line.say(OK)


@asynccontextmanager
async def tidy_loop() -> AsyncIterator[None]:
    """Fails when a task, or an exception that nobody took, is left behind."""
    told: list[dict[str, Any]] = []
    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        yield
        await settle()
        gc.collect(1)  # what was made in this test is young
        await settle()
    finally:
        loop.set_exception_handler(None)
    assert told == []
    assert asyncio.all_tasks() - {asyncio.current_task()} <= before
