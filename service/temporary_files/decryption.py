"""Reads an encrypted temporary file at any offset, in this process or in one that got its descriptor and key.

AES in CTR mode encrypts each block of 16 bytes with a counter of its own, so reading can start anywhere.
"""

import io
import os

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

BLOCK_BYTES = 16
_COUNTERS = 2 ** (8 * BLOCK_BYTES)


def cipher_at(key: bytes, nonce: bytes, offset: int) -> Cipher[CTR]:
    """Return the cipher whose stream begins with the block that holds `offset`."""
    counter = (int.from_bytes(nonce) + offset // BLOCK_BYTES) % _COUNTERS
    return Cipher(AES(key), CTR(counter.to_bytes(BLOCK_BYTES)))


class DecryptedReader(io.RawIOBase):
    """The clear bytes of an encrypted file, as a seekable file object.

    It reads with `pread`, because processes that share a descriptor share its position. Closing it leaves the
    descriptor open.
    """

    def __init__(self, descriptor: int, *, key: bytes, nonce: bytes, size: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._key = key
        self._nonce = nonce
        self._size = size
        self._offset = 0
        self._decryptor: CipherContext | None = None

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the file can be read at any offset."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the current position or the end."""
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}
        wanted = bases[whence] + offset
        if wanted < 0:
            raise ValueError("a file has no offset below 0")
        if wanted != self._offset:
            self._offset, self._decryptor = wanted, None
        return wanted

    def tell(self) -> int:
        """Return the current position."""
        return self._offset

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes from the current position; without a size, all bytes up to the end."""
        left = max(0, self._size - self._offset)
        wanted = left if size < 0 else min(size, left)
        encrypted = os.pread(self._descriptor, wanted, self._offset) if wanted else b""
        if not encrypted:
            return b""
        if self._decryptor is None:
            self._decryptor = cipher_at(self._key, self._nonce, self._offset).decryptor()
            self._decryptor.update(bytes(self._offset % BLOCK_BYTES))
        self._offset += len(encrypted)
        return self._decryptor.update(encrypted)
