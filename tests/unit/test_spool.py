"""What a spool was given, it gives back; in how many pieces it came, and where it lay, does not tell."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.api.upload_buffer import BufferedBody
from service.domain.errors import Overloaded

KIBIBYTE, MEBIBYTE = 1024, 1024 * 1024
# Around what decides: a piece read from the disk, a block, what each body has free.
TOTALS = st.sampled_from([64 * KIBIBYTE, MEBIBYTE, 2 * MEBIBYTE]).flatmap(
    lambda around: st.integers(around - 2, around + 2)
) | st.integers(0, 300_000)
SIZES = st.lists(st.integers(0, 300_000), max_size=12) | st.lists(st.integers(0, 3), max_size=200)
LIMITS = st.sampled_from([0, 1, 64 * KIBIBYTE, MEBIBYTE, 3 * MEBIBYTE])
CONTENT = random.Random(1).randbytes(2 * MEBIBYTE + 2)


class Counted:
    """Counts what goes to the disk."""

    def __init__(self, max_bytes: int = 1 << 40) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0

    def __call__(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.max_bytes:
            raise Overloaded("no more", retry_after_seconds=1)


async def content_of(spool: BufferedBody) -> bytes:
    pieces = [piece async for piece in spool.read()]
    assert all(pieces), "an empty piece would end a body that is sent in chunks"
    return b"".join(pieces)


@settings(max_examples=60)
@example(total=1000, sizes=[], limit=1000)
@example(total=1000, sizes=[999], limit=999)
@given(total=TOTALS, sizes=SIZES, limit=LIMITS)
async def test_pieces_and_places_do_not_matter(total: int, sizes: list[int], limit: int) -> None:
    disk = Counted()
    spool, at = BufferedBody(disk, limit), 0
    for size in sizes:
        spool.write(CONTENT[at : min(at + size, total)])
        at = min(at + size, total)
    spool.write(CONTENT[at:total])
    await spool.finish()
    assert spool.size == total
    assert spool.sha256 == hashlib.sha256(CONTENT[:total]).hexdigest()
    assert await content_of(spool) == CONTENT[:total]
    assert await content_of(spool) == CONTENT[:total]
    assert disk.bytes == (total if total > limit else 0)
    spool.close()


async def test_a_reader_that_gave_up_leaves_the_next_one_all() -> None:
    for limit in (0, MEBIBYTE):
        spool = BufferedBody(Counted(), limit)
        for at in range(0, 300_000, 50_000):
            spool.write(CONTENT[at : at + 50_000])
        await spool.finish()
        gone = spool.read()
        assert CONTENT.startswith(await anext(gone))
        assert await content_of(spool) == CONTENT[:300_000]
        await gone.aclose()
        spool.close()


OPEN = Path("/proc/self/fd")
as_linux_shows_them = pytest.mark.skipif(not OPEN.is_dir(), reason="looks at open files as Linux shows them")


def files_of(folder: Path) -> list[int]:
    """The open files of this folder, also those that have no name any more."""
    found = []
    for descriptor in OPEN.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor by which they are listed
            if str(descriptor.readlink()).startswith(str(folder)):
                found.append(int(descriptor.name))
    return found


@as_linux_shows_them
async def test_on_disk_nothing_can_be_read_and_nothing_stays(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    audio = b"Asha Rao has a cough. " * 20_000
    lying = []
    for _ in range(2):
        spool = BufferedBody(Counted(), 1000)
        spool.write(audio[:500])
        assert files_of(tmp_path) == []
        spool.write(audio[500:])
        await spool.finish()
        (descriptor,) = files_of(tmp_path)
        assert list(tmp_path.iterdir()) == []  # no name: it goes with the process, however that ends
        lies = os.pread(descriptor, len(audio) + 1, 0)
        assert len(lies) == len(audio)
        assert b"Asha" not in lies
        # Not even the same words twice look the same: what lies there is as good as noise.
        assert len({lies[at : at + 16] for at in range(0, len(lies), 16)}) == -(-len(lies) // 16)
        lying.append(lies)
        spool.close()
        assert files_of(tmp_path) == []
    assert lying[0] != lying[1]  # a key of each spool's own


@as_linux_shows_them
async def test_a_disk_that_is_full_leaves_nothing_open(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = BufferedBody(Counted(max_bytes=3000), 1000)
    spool.write(bytes(1000))
    with pytest.raises(Overloaded):
        spool.write(bytes(3000))
    spool.close()
    assert files_of(tmp_path) == []


def weight(spool: BufferedBody) -> int:
    """The bytes of memory that a spool's content takes, with what each object costs."""
    objects = [*spool._blocks, *spool._pieces]
    return sum(sys.getsizeof(each) for each in (spool._blocks, spool._pieces, *objects))


async def test_a_million_small_pieces_take_no_more_memory_than_their_bytes() -> None:
    spool, heaviest, most = BufferedBody(Counted(), 2 * MEBIBYTE), 0, 0
    for number in range(1_000_000):
        spool.write(CONTENT[number : number + 1])
        if number % 4096 == 0:
            heaviest = max(heaviest, weight(spool) - number)
            most = max(most, len(spool._blocks) + len(spool._pieces))
    assert heaviest < 16 * KIBIBYTE
    assert most < 128
    await spool.finish()
    assert spool.sha256 == hashlib.sha256(CONTENT[:1_000_000]).hexdigest()
    spool.close()
    assert weight(spool) < KIBIBYTE


async def test_large_pieces_are_put_together_and_never_twice() -> None:
    spool = BufferedBody(Counted(), 8 * MEBIBYTE)
    for at in range(0, 2 * MEBIBYTE, 128 * KIBIBYTE):
        spool.write(CONTENT[at : at + 128 * KIBIBYTE])
    assert [len(block) for block in spool._blocks] == [MEBIBYTE, MEBIBYTE]
    spool.write(CONTENT)
    assert [len(block) for block in spool._blocks] == [MEBIBYTE, MEBIBYTE, len(CONTENT)]
