"""A request's body, kept while it is hashed and sent on: in memory up to 1 MiB, then on disk, encrypted."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from litestar import Request

from service.api.admission import place_of
from service.domain.errors import AudioTruncated, BodyTimeout, ChunkTooLarge, ClientDisconnected

_MEMORY_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
# A client that sends nothing for so long is gone, or means harm.
_IDLE_SECONDS = 20.0
# And one that drips so slowly that 10 MB take longer than this is no dictation.
_LONGEST_SECONDS = 300.0


class Spool:
    """The bytes of one body. On disk they are encrypted under a key that lives in this object alone."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        """`keep` counts the bytes that go to the disk, and may raise."""
        self._keep = keep
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._cipher = Cipher(AES(os.urandom(32)), CTR(os.urandom(16)))
        self._encryptor = self._cipher.encryptor()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Their SHA-256, hexadecimal."""
        return self._hash.hexdigest()

    def write(self, piece: bytes) -> None:
        """Add bytes; blocking for as long as the page cache takes them."""
        self._hash.update(piece)
        self.size += len(piece)
        if self._file is None and self.size <= _MEMORY_BYTES:
            self._memory += piece
            return
        if self._file is None:
            # No name in the file system: it is gone with the process, however that ends.
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
            self._keep(len(self._memory))
            self._file.write(self._encryptor.update(bytes(self._memory)))
            self._memory = bytearray()
        self._keep(len(piece))
        self._file.write(self._encryptor.update(piece))

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes from the start, in pieces."""
        if self._file is None:
            for start in range(0, len(self._memory), _PIECE_BYTES):
                yield bytes(self._memory[start : start + _PIECE_BYTES])
            return
        decryptor = self._cipher.decryptor()
        self._file.seek(0)
        while piece := self._file.read(_PIECE_BYTES):
            yield decryptor.update(piece)
            await asyncio.sleep(0)  # a file is always ready: let the other requests have their turn

    def close(self) -> None:
        """Forget the bytes."""
        if self._file is not None:
            self._file.close()
        self._memory = bytearray()


async def spool_body(request: Request[Any, Any, Any], most_bytes: int) -> Spool:
    """Read a body into a spool that the caller closes.

    Raises ChunkTooLarge as soon as it is known, BodyTimeout, ClientDisconnected, AudioTruncated, Overloaded.
    """
    spool = Spool(place_of(request.scope).keep)

    async def keep(piece: bytes) -> None:
        spool.write(piece)

    try:
        await read_body(request, most_bytes, keep)
    except BaseException:
        spool.close()
        raise
    return spool


async def read_body(
    request: Request[Any, Any, Any], most_bytes: int, take: Callable[[bytes], Awaitable[None]]
) -> None:
    """Hand a body on piece by piece, within bounds of size and time; raises as `spool_body` does."""
    announced = _content_length(request)
    if announced is not None and announced > most_bytes:
        raise ChunkTooLarge(f"a chunk may have {most_bytes} bytes, this one announces {announced}")
    size = 0
    try:
        async with asyncio.timeout(_IDLE_SECONDS) as idle:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + _LONGEST_SECONDS
            more = True
            while more:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientDisconnected("the client went away in the middle of the chunk")
                more = message.get("more_body", False)
                piece = message.get("body", b"")
                size += len(piece)
                if size > most_bytes:
                    raise ChunkTooLarge(f"a chunk may have {most_bytes} bytes")
                await take(piece)
                idle.reschedule(min(loop.time() + _IDLE_SECONDS, deadline))
    except TimeoutError:
        raise BodyTimeout("the chunk came too slowly") from None
    if announced is not None and size != announced:
        raise AudioTruncated(f"Content-Length says {announced} bytes, {size} came")


def _content_length(request: Request[Any, Any, Any]) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
