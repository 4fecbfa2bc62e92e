"""A request's body, kept while it is hashed and sent: in memory while there is room, or encrypted on disk."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from litestar import Request

from service.api.middleware.admission_control import Permit, permit_of
from service.domain.errors import (
    AudioTruncated,
    BodyTimeout,
    BridgeError,
    ChunkTooLarge,
    ClientDisconnected,
    Overloaded,
)

# Bytes that each body may keep in memory unasked; admission_control.py grants more.
_FREE_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
# Pieces are put together when they have so many bytes, or are so many: each costs some memory of its own.
_BLOCK_BYTES = 1024 * 1024
_MAX_PIECES = 64
# A larger body is hashed beside the loop, which serves others meanwhile.
_LONG_BYTES = 1024 * 1024
# A client that sends nothing for so long is gone, or means harm.
_IDLE_SECONDS = 20.0
# To move the end of our patience costs more than to receive a piece: it is moved once in so many seconds.
_TOLD_SECONDS = 1.0
# And one that drips so slowly that 10 MB take longer than this is no dictation.
_LONGEST_SECONDS = 300.0
# A body that drips is given up by its rate: live audio of the lowest quality comes twice as fast.
_GRACE_SECONDS = 20.0
_MIN_BYTES_PER_SECOND = 1024


def lost(_: OSError) -> BridgeError:
    """Return the error of a body that cannot be kept."""
    return Overloaded("the folder for audio on its way is full or cannot be used", retry_after_seconds=1.0)


class BufferedBody:
    """The bytes of one body. On disk they are encrypted under a key that lives in this object alone."""

    def __init__(
        self,
        keep: Callable[[int], None],
        memory_bytes: int = _FREE_BYTES,
        lose: Callable[[OSError], BridgeError] = lost,
    ) -> None:
        """`keep` counts the bytes that go to the disk, and may raise; `memory_bytes` may stay in memory.

        `lose` makes the error that is raised when the disk is full or cannot be used.
        """
        self._keep = keep
        self._lose = lose
        self._memory_bytes = memory_bytes
        self._blocks: list[bytes] = []
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._disk: _Disk | None = None
        self._sha256: str | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        """Their SHA-256, hexadecimal; known when the body is finished."""
        assert self._sha256 is not None  # noqa: S101 - whoever hands a spool on has finished it
        return self._sha256

    def write(self, piece: bytes) -> None:
        """Add bytes; blocking for as long as the page cache takes them."""
        self.size += len(piece)
        if self._disk is not None:
            self._disk.write(piece)
            return
        if not piece:
            return
        self._pieces.append(piece)
        self._piece_bytes += len(piece)
        if self.size > self._memory_bytes:
            self._disk = _Disk(self._keep, self._lose)
            for kept in self._take_all():
                self._disk.write(kept)
        elif self._piece_bytes >= _BLOCK_BYTES or len(self._pieces) >= _MAX_PIECES:
            self._pack()

    async def finish(self) -> None:
        """There is no more: the bytes may be read."""
        if self._disk is not None:
            self._disk.finish()
            self._sha256 = self._disk.hash.hexdigest()
            return
        self._blocks = self._take_all()
        if self.size > _LONG_BYTES:
            self._sha256 = await asyncio.to_thread(_hashed, self._blocks)
        else:
            self._sha256 = _hashed(self._blocks)

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes from the start, in pieces."""
        if self._disk is None:
            for block in self._blocks:
                yield block
            return
        for piece in self._disk.read():
            yield piece
            await asyncio.sleep(0)  # a file is always ready: let the other requests have their turn

    def close(self) -> None:
        """Forget the bytes."""
        if self._disk is not None:
            self._disk.close()
        self._take_all()

    def _pack(self) -> None:
        """Make one block of the pieces; small blocks become larger ones, so that there are few."""
        blocks = self._blocks
        blocks.append(b"".join(self._pieces))
        self._pieces, self._piece_bytes = [], 0
        while len(blocks) > 1 and len(blocks[-2]) <= len(blocks[-1]) < _BLOCK_BYTES // 2:
            last = blocks.pop()
            blocks[-1] += last

    def _take_all(self) -> list[bytes]:
        taken = self._blocks + self._pieces
        self._blocks, self._pieces, self._piece_bytes = [], [], 0
        return taken


class _Disk:
    """The part of a spool that lies in a file; written to its end, then read as often as anybody likes."""

    def __init__(self, keep: Callable[[int], None], lose: Callable[[OSError], BridgeError]) -> None:
        self._keep = keep
        self._lose = lose
        with self._told():
            # No name in the file system: it is gone with the process, however that ends.
            self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._cipher = Cipher(AES(os.urandom(32)), CTR(os.urandom(16)))
        self._encryptor = self._cipher.encryptor()
        self.hash = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._keep(len(piece))
        self.hash.update(piece)
        with self._told():
            self._file.write(self._encryptor.update(piece))

    def finish(self) -> None:
        # What is buffered may find the disk full only now, and not when EkaScribe waits for the bytes.
        with self._told():
            self._file.flush()

    def read(self) -> Iterator[bytes]:
        decryptor = self._cipher.decryptor()
        with self._told():
            self._file.seek(0)
        while piece := self._read_piece():
            yield decryptor.update(piece)

    def close(self) -> None:
        # Closing writes what is buffered, and fails where writing failed; the file is closed all the same.
        with contextlib.suppress(OSError):
            self._file.close()

    def _read_piece(self) -> bytes:
        with self._told():
            return self._file.read(_PIECE_BYTES)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._lose(error) from error


def _hashed(pieces: list[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


async def memory_for(place: Permit, announced: int | None, max_bytes: int) -> int:
    """Return how many bytes of a body may stay in memory: all of a large one while there is room for it."""
    if announced is None or not _FREE_BYTES < announced <= max_bytes:
        return _FREE_BYTES
    return announced if await place.take_memory(announced) else 0


async def buffer_body(request: Request[Any, Any, Any], max_bytes: int) -> BufferedBody:
    """Read a body into a spool that the caller closes.

    Raises ChunkTooLarge as soon as it is known, BodyTimeout, ClientDisconnected, AudioTruncated, Overloaded.
    """
    place = permit_of(request.scope)
    spool = BufferedBody(place.keep, await memory_for(place, content_length(request), max_bytes), place.lose)

    async def keep(piece: bytes) -> None:
        spool.write(piece)

    try:
        await read_body(request, max_bytes, keep)
        await spool.finish()
    except BaseException:
        spool.close()
        raise
    return spool


async def read_body(
    request: Request[Any, Any, Any], max_bytes: int, take: Callable[[bytes], Awaitable[None]]
) -> None:
    """Hand a body on piece by piece, within bounds of size and time; raises as `buffer_body` does."""
    announced = content_length(request)
    if announced is not None and announced > max_bytes:
        raise ChunkTooLarge(f"a chunk may have {max_bytes} bytes, this one announces {announced}")
    size = 0
    try:
        async with asyncio.timeout(_IDLE_SECONDS) as idle:
            loop = asyncio.get_running_loop()
            began = told = loop.time()
            deadline = told + _LONGEST_SECONDS
            more = True
            while more:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientDisconnected("the client went away in the middle of the chunk")
                more = message.get("more_body", False)
                piece = message.get("body", b"")
                size += len(piece)
                if size > max_bytes:
                    raise ChunkTooLarge(f"a chunk may have {max_bytes} bytes")
                await take(piece)
                if loop.time() > told + _TOLD_SECONDS:
                    told = loop.time()
                    if drips(size, told - began):
                        raise BodyTimeout("the chunk came too slowly")
                    idle.reschedule(min(told + _IDLE_SECONDS, deadline))
    except TimeoutError:
        raise BodyTimeout("the chunk came too slowly") from None
    if announced is not None and size != announced:
        raise AudioTruncated(f"Content-Length says {announced} bytes, {size} came")


def drips(size: int, seconds: float) -> bool:
    """Whether a body that has so many bytes after so many seconds is given up for its rate."""
    return seconds > _GRACE_SECONDS and size < seconds * _MIN_BYTES_PER_SECOND


def content_length(request: Request[Any, Any, Any]) -> int | None:
    """Return what the body is announced to have."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
