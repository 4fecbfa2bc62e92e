"""A temporary file gives back what was written, from any offset, and holds none of it in clear text."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.temporary_files import decryption
from service.temporary_files.decryption import DecryptedReader
from service.temporary_files.encrypted_file import EncryptedTemporaryFile

CONTENT = random.Random(1).randbytes(200_001)


def filled(content: bytes = CONTENT) -> EncryptedTemporaryFile:
    file = EncryptedTemporaryFile()
    for first in range(0, len(content), 7919):
        file.write(content[first : first + 7919])
    file.finish()
    return file


@pytest.fixture(scope="module")
def file() -> Iterator[EncryptedTemporaryFile]:
    file = filled()
    yield file
    file.close()


def reader(file: EncryptedTemporaryFile) -> DecryptedReader:
    return DecryptedReader(file.fileno(), key=file.key, nonce=file.nonce, size=file.size)


@settings(max_examples=60)
@given(offset=st.integers(0, len(CONTENT) + 20))
def test_reading_starts_anywhere(file: EncryptedTemporaryFile, offset: int) -> None:
    assert b"".join(file.read(offset)) == CONTENT[offset:]


@settings(max_examples=60)
@given(moves=st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(0, 5000)), max_size=8))
def test_a_reader_seeks_as_a_file_does(file: EncryptedTemporaryFile, moves: list[tuple[int, int]]) -> None:
    encrypted, plain = reader(file), io.BytesIO(CONTENT)
    for offset, size in moves:
        assert encrypted.seek(offset) == plain.seek(offset)
        assert encrypted.read(size) == plain.read(size)
        assert encrypted.seek(-offset // 2, os.SEEK_END) == plain.seek(-offset // 2, os.SEEK_END)
        assert encrypted.read(size) == plain.read(size)
        assert encrypted.tell() == plain.tell()


def test_readers_do_not_disturb_each_other(file: EncryptedTemporaryFile) -> None:
    first, second = file.read(), file.read(100_000)
    pieces = [(next(first), next(second)) for _ in range(2)]
    assert b"".join(one for one, _ in pieces) == CONTENT[:131_072]
    assert b"".join(other for _, other in pieces) == CONTENT[100_000:]


def test_the_file_holds_no_clear_text_and_has_no_name() -> None:
    file = filled(bytes(100_000))
    raw = os.pread(file.fileno(), 100_000, 0)
    blocks = {raw[at : at + 16] for at in range(0, len(raw), 16)}
    assert len(blocks) == 6250
    assert os.fstat(file.fileno()).st_nlink == 0
    file.close()


def test_each_file_has_a_key_of_its_own() -> None:
    one, other = filled(b"the same"), filled(b"the same")
    assert one.key != other.key
    assert os.pread(one.fileno(), 8, 0) != os.pread(other.fileno(), 8, 0)
    assert one.sha256 == other.sha256
    one.close()
    other.close()


def test_the_counter_wraps_around() -> None:
    """The counter starts at random, so it can reach its end within a file."""
    key, nonce = bytes(32), b"\xff" * 16
    whole = decryption.cipher_at(key, nonce, 0).encryptor().update(bytes(64))
    assert decryption.cipher_at(key, nonce, 16).encryptor().update(bytes(48)) == whole[16:]


def test_a_reader_does_not_go_before_the_start(file: EncryptedTemporaryFile) -> None:
    with pytest.raises(ValueError, match="below 0"):
        reader(file).seek(-1)
