from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.temporary_files.encrypted_file import EncryptedTemporaryFile

Encrypt = Callable[[bytes], EncryptedTemporaryFile]


@pytest.fixture
def encrypted() -> Iterator[Encrypt]:
    """Puts recordings into encrypted files, which are closed after the test."""
    files = []

    def encrypt(content: bytes) -> EncryptedTemporaryFile:
        file = EncryptedTemporaryFile()
        files.append(file)
        file.write(content)
        file.finish()
        return file

    yield encrypt
    for file in files:
        file.close()
