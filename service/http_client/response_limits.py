"""Limits of what an HTTP server may send around the content of its responses, for every client of ours.

The libraries limit a response's head and its time. They read interim responses (1xx), framing and trailers
without a limit, and a server that sends these as fast as it can blocks the event loop.
"""

import re
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpcore2
import httpx2

# Interim responses and the head of the final response together.
MAX_HEAD_BYTES = 65_536
# Where the digits of the status stand after `HTTP/1.1 `.
_INTERIM, _SWITCHING = re.compile(rb".{9}1"), re.compile(rb".{9}101")
_END_OF_HEAD = re.compile(rb"\n\r?\n")


class ContentEncodingError(Exception):
    """The content has an encoding that was not asked for, or is damaged."""


class Decompressor:
    """Decompresses content piece by piece, so that a few bytes cannot fill the memory.

    Our clients ask for gzip alone. Raises ContentEncodingError for another encoding.
    """

    piece_bytes = 65_536

    def __init__(self, encoding: str | None) -> None:
        named = (encoding or "identity").strip().lower()
        if named not in {"identity", "gzip", "x-gzip"}:
            raise ContentEncodingError(named)
        self._decoder = None if named == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 16)

    def pieces(self, raw: bytes) -> Iterable[bytes]:
        """Yield the content of these bytes; a piece that was compressed has at most `piece_bytes`."""
        if self._decoder is None:
            yield raw
            return
        try:
            while raw:
                yield self._decoder.decompress(raw, self.piece_bytes)
                raw = self._decoder.unconsumed_tail
        except zlib.error as error:
            raise ContentEncodingError("gzip") from error


async def content_pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the content of a response in pieces, decompressed at most once.

    httpx2 decompresses up to five encodings on top of each other and blocks the event loop meanwhile: a
    kilobyte in three layers of gzip stops the process for seconds, and 64 KB for minutes. Raises
    ContentEncodingError.
    """
    decompressor = Decompressor(answer.headers.get("content-encoding"))
    async for raw in answer.aiter_raw():
        for piece in decompressor.pieces(raw):
            yield piece


class LimitedStream(httpcore2.AsyncNetworkStream):
    """A connection that fails when the server sends too much for one response."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, max_answer_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_answer_bytes
        self._bytes = 0
        # The bytes of heads so far; None once the head of the final response is complete.
        self._head: bytearray | None = bytearray()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Read bytes and count them. Raises RemoteProtocolError beyond a limit."""
        data = await self._inner.read(max_bytes, timeout)
        self._bytes += len(data)
        if self._head is not None:
            self._read_heads(data)
        if self._bytes > self._max_bytes:
            raise httpcore2.RemoteProtocolError("the answer goes on without end")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send bytes of a request, and begin to count its response."""
        self._bytes, self._head = 0, bytearray()
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        """Continue over TLS."""
        inner = await self._inner.start_tls(ssl_context, server_hostname, timeout)
        return LimitedStream(inner, self._max_bytes)

    def get_extra_info(self, info: str) -> Any:
        """Return a property of the connection, such as its peer's address."""
        return self._inner.get_extra_info(info)

    def _read_heads(self, data: bytes) -> None:
        head = self._head
        assert head is not None  # noqa: S101 - only called while there is one
        head += data
        if self._bytes > MAX_HEAD_BYTES and _is_interim(head):
            raise httpcore2.RemoteProtocolError("interim answers without end")
        while (end := _end_of_head(head)) and _is_interim(head):
            del head[:end]
        if end and not _is_interim(head):
            self._head = None
        elif self._bytes > MAX_HEAD_BYTES:
            raise httpcore2.RemoteProtocolError("the answer's head goes on without end")


def _is_interim(head: bytearray) -> bool:
    return _INTERIM.match(head) is not None and _SWITCHING.match(head) is None


def _end_of_head(head: bytearray) -> int:
    """Return where a head ends, or 0; a bare line feed ends a line, too (RFC 9112, 2.2)."""
    found = _END_OF_HEAD.search(head)
    return found.end() if found else 0


class LimitedBackend(httpcore2.AsyncNetworkBackend):
    """Connects through another backend and limits each connection."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend, max_answer_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_answer_bytes

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's own name
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect through the other backend."""
        stream = await self._inner.connect_tcp(
            host, port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )
        return LimitedStream(stream, self._max_bytes)

    async def sleep(self, seconds: float) -> None:
        """Wait; the interface of a backend includes it."""
        await self._inner.sleep(seconds)
