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
_UNRESERVED_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
# Pieces are put together when they have so many bytes, or are so many: each costs some memory of its own.
_BLOCK_BYTES = 1024 * 1024
_MAX_PIECES = 64
# A larger body is hashed beside the loop, which serves others meanwhile.
_HASH_IN_THREAD_BYTES = 1024 * 1024
# A client that sends nothing for so long is gone, or means harm.
_MAX_IDLE_SECONDS = 20.0
# To move the end of our patience costs more than to receive a piece: it is moved once in so many seconds.
_RESCHEDULE_SECONDS = 1.0
# And one that drips so slowly that 10 MB take longer than this is no dictation.
_MAX_TOTAL_SECONDS = 300.0
# A body that drips is given up by its rate: live audio of the lowest quality comes twice as fast.
_GRACE_SECONDS = 20.0
_MIN_BYTES_PER_SECOND = 1024


def storage_failure(_: OSError) -> BridgeError:
    """Return the error of a body that cannot be kept."""
    return Overloaded("the folder for audio on its way is full or cannot be used", retry_after_seconds=1.0)


class BufferedBody:
    """The bytes of one body. On disk they are encrypted under a key that lives in this object alone."""

    def __init__(
        self,
        count_written: Callable[[int], None],
        memory_bytes: int = _UNRESERVED_BYTES,
        disk_failure: Callable[[OSError], BridgeError] = storage_failure,
    ) -> None:
        """`keep` counts the bytes that go to the disk, and may raise; `memory_bytes` may stay in memory.

        `lose` makes the error that is raised when the disk is full or cannot be used.
        """
        self._count_written = count_written
        self._disk_failure = disk_failure
        self._memory_bytes = memory_bytes
        self._blocks: list[bytes] = []
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._encrypted_file: _EncryptedFile | None = None
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
        if self._encrypted_file is not None:
            self._encrypted_file.write(piece)
            return
        if not piece:
            return
        self._pieces.append(piece)
        self._piece_bytes += len(piece)
        if self.size > self._memory_bytes:
            self._encrypted_file = _EncryptedFile(self._count_written, self._disk_failure)
            for kept in self._detach_all():
                self._encrypted_file.write(kept)
        elif self._piece_bytes >= _BLOCK_BYTES or len(self._pieces) >= _MAX_PIECES:
            self._merge_pieces()

    async def finish(self) -> None:
        """There is no more: the bytes may be read."""
        if self._encrypted_file is not None:
            self._encrypted_file.finish()
            self._sha256 = self._encrypted_file.hash.hexdigest()
            return
        self._blocks = self._detach_all()
        if self.size > _HASH_IN_THREAD_BYTES:
            self._sha256 = await asyncio.to_thread(_sha256_of, self._blocks)
        else:
            self._sha256 = _sha256_of(self._blocks)

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes from the start, in pieces."""
        if self._encrypted_file is None:
            for block in self._blocks:
                yield block
            return
        for piece in self._encrypted_file.read():
            yield piece
            await asyncio.sleep(0)  # a file is always ready: let the other requests have their turn

    def close(self) -> None:
        """Forget the bytes."""
        if self._encrypted_file is not None:
            self._encrypted_file.close()
        self._detach_all()

    def _merge_pieces(self) -> None:
        """Make one block of the pieces; small blocks become larger ones, so that there are few."""
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


class _EncryptedFile:
    """The part of a spool that lies in a file; written to its end, then read as often as anybody likes."""

    def __init__(
        self, count_written: Callable[[int], None], disk_failure: Callable[[OSError], BridgeError]
    ) -> None:
        self._count_written = count_written
        self._disk_failure = disk_failure
        with self._translated_errors():
            # No name in the file system: it is gone with the process, however that ends.
            self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._cipher = Cipher(AES(os.urandom(32)), CTR(os.urandom(16)))
        self._encryptor = self._cipher.encryptor()
        self.hash = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        self._count_written(len(piece))
        self.hash.update(piece)
        with self._translated_errors():
            self._file.write(self._encryptor.update(piece))

    def finish(self) -> None:
        # What is buffered may find the disk full only now, and not when EkaScribe waits for the bytes.
        with self._translated_errors():
            self._file.flush()

    def read(self) -> Iterator[bytes]:
        decryptor = self._cipher.decryptor()
        with self._translated_errors():
            self._file.seek(0)
        while piece := self._read_piece():
            yield decryptor.update(piece)

    def close(self) -> None:
        # Closing writes what is buffered, and fails where writing failed; the file is closed all the same.
        with contextlib.suppress(OSError):
            self._file.close()

    def _read_piece(self) -> bytes:
        with self._translated_errors():
            return self._file.read(_PIECE_BYTES)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._disk_failure(error) from error


def _sha256_of(pieces: list[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


async def memory_for(permit: Permit, announced_bytes: int | None, max_bytes: int) -> int:
    """Return how many bytes of a body may stay in memory: all of a large one while there is room for it."""
    if announced_bytes is None or not _UNRESERVED_BYTES < announced_bytes <= max_bytes:
        return _UNRESERVED_BYTES
    return announced_bytes if await permit.reserve_memory(announced_bytes) else 0


async def buffer_body(request: Request[Any, Any, Any], max_bytes: int) -> BufferedBody:
    """Read a body into a spool that the caller closes.

    Raises ChunkTooLarge as soon as it is known, BodyTimeout, ClientDisconnected, AudioTruncated, Overloaded.
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


async def read_body(
    request: Request[Any, Any, Any], max_bytes: int, consume: Callable[[bytes], Awaitable[None]]
) -> None:
    """Hand a body on piece by piece, within bounds of size and time; raises as `buffer_body` does."""
    announced = content_length(request)
    if announced is not None and announced > max_bytes:
        raise ChunkTooLarge(f"a chunk may have {max_bytes} bytes, this one announces {announced}")
    size = 0
    try:
        async with asyncio.timeout(_MAX_IDLE_SECONDS) as idle:
            loop = asyncio.get_running_loop()
            started = rescheduled = loop.time()
            deadline = rescheduled + _MAX_TOTAL_SECONDS
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
                await consume(piece)
                if loop.time() > rescheduled + _RESCHEDULE_SECONDS:
                    rescheduled = loop.time()
                    if is_too_slow(size, rescheduled - started):
                        raise BodyTimeout("the chunk came too slowly")
                    idle.reschedule(min(rescheduled + _MAX_IDLE_SECONDS, deadline))
    except TimeoutError:
        raise BodyTimeout("the chunk came too slowly") from None
    if announced is not None and size != announced:
        raise AudioTruncated(f"Content-Length says {announced} bytes, {size} came")


def is_too_slow(size: int, seconds: float) -> bool:
    """Whether a body that has so many bytes after so many seconds is given up for its rate."""
    return seconds > _GRACE_SECONDS and size < seconds * _MIN_BYTES_PER_SECOND


def content_length(request: Request[Any, Any, Any]) -> int | None:
    """Return what the body is announced to have."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None
