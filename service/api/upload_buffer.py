"""Buffers the body of an upload while it is hashed and sent to EkaScribe: in memory, or encrypted on disk.

A body stays in memory as long as the memory budget allows (middleware/admission_control.py), and otherwise
goes to a temporary file. Audio of patients never lies on disk in clear text.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from litestar import Request
from msgspec import Struct

from service.api.middleware.admission_control import Permit, permit_of
from service.domain.errors import (
    AudioTruncated,
    BodyTimeout,
    BridgeError,
    ChunkTooLarge,
    ClientDisconnected,
    Overloaded,
)
from service.temporary_files.encrypted_file import EncryptedTemporaryFile

# Each body may hold so many bytes in memory without a reservation; admission_control.py grants more.
_UNRESERVED_BYTES = 1024 * 1024
# Received pieces are joined into blocks at so many bytes or pieces, because each object costs extra memory.
_BLOCK_BYTES = 1024 * 1024
_MAX_PIECES = 64
# A larger body is hashed in a thread, so that the event loop is not blocked.
_HASH_IN_THREAD_BYTES = 1024 * 1024
# A client that sends nothing for so long is assumed to be gone.
_MAX_IDLE_SECONDS = 20.0
# Moving the idle timeout costs more than receiving a piece, so it moves at most once in so many seconds.
_RESCHEDULE_SECONDS = 1.0
# After the grace a body must keep the average rate of its pace.
_GRACE_SECONDS = 20.0


class Pace(Struct, frozen=True, kw_only=True):
    """The time limit for a whole body of a kind, and the average rate that it must keep."""

    kind: str
    max_seconds: float
    min_bytes_per_second: float


# Live audio of the lowest quality is twice as fast.
CHUNK_PACE = Pace(kind="chunk", max_seconds=300.0, min_bytes_per_second=1024)
# Compressed speech has so many bytes a second: an upload that takes as long as the dictation is fast enough.
RECORDING_PACE = Pace(kind="recording", max_seconds=3600.0, min_bytes_per_second=4096)


def storage_failure(_: OSError) -> BridgeError:
    """Return the error for a body that cannot be stored, where no permit counts refusals."""
    return Overloaded("the folder for audio on its way is full or cannot be used", retry_after_seconds=1.0)


class BufferedBody:
    """The bytes of one body. On disk they are encrypted with a key that exists only in this object."""

    def __init__(
        self,
        count_written: Callable[[int], None],
        memory_bytes: int = _UNRESERVED_BYTES,
        disk_failure: Callable[[OSError], BridgeError] = storage_failure,
    ) -> None:
        """Up to `memory_bytes` stay in memory; a larger body goes to the disk as a whole.

        `count_written` counts the bytes for the disk before they are written, and may raise. `disk_failure`
        makes the error to raise if the disk is full or cannot be used.
        """
        self._count_written = count_written
        self._disk_failure = disk_failure
        self._memory_bytes = memory_bytes
        self._blocks: list[bytes] = []
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._encrypted_file: EncryptedTemporaryFile | None = None
        self._sha256: str | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        """The hexadecimal SHA-256 of the body, available after `finish`."""
        assert self._sha256 is not None  # noqa: S101 - callers finish a body before they pass it on
        return self._sha256

    def write(self, piece: bytes) -> None:
        """Append bytes; a write to the disk blocks for the time that the page cache needs."""
        self.size += len(piece)
        if self._encrypted_file is not None:
            self._write_to_disk(self._encrypted_file, piece)
            return
        if not piece:
            return
        self._pieces.append(piece)
        self._piece_bytes += len(piece)
        if self.size > self._memory_bytes:
            with self._translated_errors():
                self._encrypted_file = EncryptedTemporaryFile()
            for kept in self._detach_all():
                self._write_to_disk(self._encrypted_file, kept)
        elif self._piece_bytes >= _BLOCK_BYTES or len(self._pieces) >= _MAX_PIECES:
            self._merge_pieces()

    async def finish(self) -> None:
        """Finish the body: it has its hash now and may be read."""
        if self._encrypted_file is not None:
            with self._translated_errors():
                self._encrypted_file.finish()
            self._sha256 = self._encrypted_file.sha256
            return
        self._blocks = self._detach_all()
        if self.size > _HASH_IN_THREAD_BYTES:
            self._sha256 = await asyncio.to_thread(_sha256_of, self._blocks)
        else:
            self._sha256 = _sha256_of(self._blocks)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces; every call starts at the beginning."""
        if self._encrypted_file is None:
            for block in self._blocks:
                yield block
            return
        with self._translated_errors():
            for piece in self._encrypted_file.read():
                yield piece
                await asyncio.sleep(0)  # reading a file never suspends, so other tasks get a chance here

    def close(self) -> None:
        """Delete the bytes."""
        if self._encrypted_file is not None:
            self._encrypted_file.close()
        self._detach_all()

    def _write_to_disk(self, file: EncryptedTemporaryFile, piece: bytes) -> None:
        self._count_written(len(piece))
        with self._translated_errors():
            file.write(piece)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._disk_failure(error) from error

    def _merge_pieces(self) -> None:
        """Join the pieces into a block, and small blocks into larger ones, to keep their number small."""
        blocks = self._blocks
        blocks.append(b"".join(self._pieces))
        self._pieces, self._piece_bytes = [], 0
        while len(blocks) > 1 and len(blocks[-2]) <= len(blocks[-1]) < _BLOCK_BYTES // 2:
            last = blocks.pop()
            blocks[-1] += last

    def _detach_all(self) -> list[bytes]:
        detached = self._blocks + self._pieces
        self._blocks, self._pieces, self._piece_bytes = [], [], 0
        return detached


def _sha256_of(pieces: list[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


async def memory_for(permit: Permit, announced_bytes: int | None, max_bytes: int) -> int:
    """Return how many bytes of a body may stay in memory, after reserving memory for a large body."""
    if announced_bytes is None or not _UNRESERVED_BYTES < announced_bytes <= max_bytes:
        return _UNRESERVED_BYTES
    return announced_bytes if await permit.reserve_memory(announced_bytes) else 0


async def buffer_body(request: Request[Any, Any, Any], max_bytes: int) -> BufferedBody:
    """Read the body of a request into a buffer that the caller closes.

    Raises ChunkTooLarge, BodyTimeout, ClientDisconnected, AudioTruncated or Overloaded.
    """
    permit = permit_of(request.scope)
    memory_bytes = await memory_for(permit, content_length(request), max_bytes)
    body = BufferedBody(permit.count_written, memory_bytes, permit.disk_failure)

    async def write(piece: bytes) -> None:
        body.write(piece)

    try:
        await read_body(request, max_bytes, write)
        await body.finish()
    except BaseException:
        body.close()
        raise
    return body


def _chunk_too_large(max_bytes: int) -> BridgeError:
    return ChunkTooLarge(f"a chunk may have {max_bytes} bytes")


async def read_body(
    request: Request[Any, Any, Any],
    max_bytes: int,
    consume: Callable[[bytes], Awaitable[None]],
    pace: Pace = CHUNK_PACE,
    too_large: Callable[[int], BridgeError] = _chunk_too_large,
) -> None:
    """Pass a body to `consume` in pieces, within limits of size and time; raises as `buffer_body` does.

    `too_large` makes the error for a body of more than `max_bytes`.
    """
    announced = content_length(request)
    if announced is not None and announced > max_bytes:
        raise too_large(max_bytes)
    size = 0
    try:
        async with asyncio.timeout(_MAX_IDLE_SECONDS) as idle:
            loop = asyncio.get_running_loop()
            started = rescheduled = loop.time()
            deadline = rescheduled + pace.max_seconds
            more = True
            while more:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientDisconnected(f"the client went away in the middle of the {pace.kind}")
                more = message.get("more_body", False)
                piece = message.get("body", b"")
                size += len(piece)
                if size > max_bytes:
                    raise too_large(max_bytes)
                await consume(piece)
                if loop.time() > rescheduled + _RESCHEDULE_SECONDS:
                    rescheduled = loop.time()
                    if is_too_slow(size, rescheduled - started, pace):
                        raise BodyTimeout(f"the {pace.kind} came too slowly")
                    idle.reschedule(min(rescheduled + _MAX_IDLE_SECONDS, deadline))
    except TimeoutError:
        raise BodyTimeout(f"the {pace.kind} came too slowly") from None
    if announced is not None and size != announced:
        raise AudioTruncated(f"Content-Length says {announced} bytes, {size} came")


def is_too_slow(size: int, seconds: float, pace: Pace = CHUNK_PACE) -> bool:
    """Return whether a body with so many bytes after so many seconds is too slow to wait for."""
    return seconds > _GRACE_SECONDS and size < seconds * pace.min_bytes_per_second


def content_length(request: Request[Any, Any, Any]) -> int | None:
    """Return the value of Content-Length, or None."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
