"""Keeps bytes that outgrow memory in an encrypted temporary file, whose size a budget of the process limits.

The file has no name, so the system frees it even if the process is killed, and its key exists only in memory.
"""

import contextlib
import os
import tempfile
from bisect import bisect_right
from typing import BinaryIO

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_TAG_BYTES = 16
_NONCE_BYTES = 12


class SpoolBudget:
    """The bytes of disk that all spools of a process together may use."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.used_bytes = 0

    def acquire(self, size: int) -> bool:
        """Reserve bytes; false if fewer are free."""
        if self.used_bytes + size > self._max_bytes:
            return False
        self.used_bytes += size
        return True

    def release(self, size: int) -> None:
        """Free bytes."""
        self.used_bytes -= size


class EncryptedSpool:
    """A file to append to and to read from, encrypted block by block. It is created by the first append."""

    def __init__(self, budget: SpoolBudget) -> None:
        self._budget = budget
        self._file: BinaryIO | None = None
        self._cipher = AESGCM(AESGCM.generate_key(256))
        # The position of each block's first byte among all bytes; the last entry is the size.
        self._starts = [0]
        self._written_blocks = 0

    @property
    def size(self) -> int:
        """The number of bytes that were appended since the file was last emptied."""
        return self._starts[-1]

    def append(self, data: bytes) -> bool:
        """Append a block; false if the budget or the disk has no room for it, and nothing was appended."""
        if not self._budget.acquire(len(data)):
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - close() closes it
            number = len(self._starts) - 1
            nonce = self._written_blocks.to_bytes(_NONCE_BYTES)
            self._written_blocks += 1
            block = nonce + self._cipher.encrypt(nonce, data, None)
            offset = self._offset(number)
            while block:
                written = os.pwrite(self._file.fileno(), block, offset)
                block, offset = block[written:], offset + written
        except OSError:
            self._budget.release(len(data))
            return False
        self._starts.append(self.size + len(data))
        return True

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from position `start` to `end`."""
        pieces = []
        number = bisect_right(self._starts, start) - 1
        while start < end and start < self.size:
            block = self._block(number)
            first = self._starts[number]
            pieces.append(block[start - first : end - first])
            number += 1
            start = self._starts[number]
        return b"".join(pieces)

    def clear(self) -> None:
        """Drop all bytes and close the file; the spool may be used again."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        self._budget.release(self.size)
        self._starts = [0]

    def _offset(self, number: int) -> int:
        return self._starts[number] + number * (_NONCE_BYTES + _TAG_BYTES)

    def _block(self, number: int) -> bytes:
        assert self._file is not None  # noqa: S101 - there are bytes, so there is a file
        offset, end = self._offset(number), self._offset(number + 1)
        encrypted = os.pread(self._file.fileno(), end - offset, offset)
        return self._cipher.decrypt(encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:], None)
