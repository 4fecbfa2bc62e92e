"""Keeps large bodies in encrypted temporary files: audio of patients never lies on disk in clear text."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from service.temporary_files.decryption import BLOCK_BYTES, DecryptedReader, cipher_at

_PIECE_BYTES = 64 * 1024
_KEY_BYTES = 32


class EncryptedTemporaryFile:
    """A file without a name: written once to its end, then read any number of times, from any offset.

    Its key exists only in this object. Each method raises OSError if the disk is full or cannot be used.
    """

    def __init__(self) -> None:
        # The file has no name, so the system frees it even if the process is killed.
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self.key = os.urandom(_KEY_BYTES)
        self.nonce = os.urandom(BLOCK_BYTES)
        self._encryptor = cipher_at(self.key, self.nonce, 0).encryptor()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The hexadecimal SHA-256 of the bytes written so far."""
        return self._hash.hexdigest()

    def fileno(self) -> int:
        """Return the file's descriptor, for a process that reads with the key and the nonce."""
        return self._file.fileno()

    def write(self, piece: bytes) -> None:
        """Append bytes; this blocks for the time that the page cache needs."""
        self._hash.update(piece)
        self._file.write(self._encryptor.update(piece))
        self.size += len(piece)

    def finish(self) -> None:
        """Flush what is written: a full disk must show now, and not when the bytes are needed."""
        self._file.flush()

    def read(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from an offset to the end, in pieces; reads do not disturb each other."""
        reader = DecryptedReader(self.fileno(), key=self.key, nonce=self.nonce, size=self.size)
        reader.seek(offset)
        while piece := reader.read(_PIECE_BYTES):
            yield piece

    def close(self) -> None:
        """Delete the bytes."""
        # Closing flushes, which fails if writing has failed before; the file is closed nevertheless.
        with contextlib.suppress(OSError):
            self._file.close()
