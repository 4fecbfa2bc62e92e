"""What a body was given, it gives back; in how many pieces it came, and where it lay, does not tell."""

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

from service.api.upload_buffer import BufferedBody, is_too_slow
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


async def content_of(body: BufferedBody) -> bytes:
    pieces = [piece async for piece in body.read()]
    assert all(pieces), "an empty piece would end a body that is sent in chunks"
    return b"".join(pieces)


@settings(max_examples=60)
@example(total=1000, sizes=[], limit=1000)
@example(total=1000, sizes=[999], limit=999)
@given(total=TOTALS, sizes=SIZES, limit=LIMITS)
async def test_pieces_and_places_do_not_matter(total: int, sizes: list[int], limit: int) -> None:
    disk = Counted()
    body, at = BufferedBody(disk, limit), 0
    for size in sizes:
        body.write(CONTENT[at : min(at + size, total)])
        at = min(at + size, total)
    body.write(CONTENT[at:total])
    await body.finish()
    assert body.size == total
    assert body.sha256 == hashlib.sha256(CONTENT[:total]).hexdigest()
    assert await content_of(body) == CONTENT[:total]
    assert await content_of(body) == CONTENT[:total]
    assert disk.bytes == (total if total > limit else 0)
    body.close()


async def test_a_reader_that_gave_up_leaves_the_next_one_all() -> None:
    for limit in (0, MEBIBYTE):
        body = BufferedBody(Counted(), limit)
        for at in range(0, 300_000, 50_000):
            body.write(CONTENT[at : at + 50_000])
        await body.finish()
        gone = body.read()
        assert CONTENT.startswith(await anext(gone))
        assert await content_of(body) == CONTENT[:300_000]
        await gone.aclose()
        body.close()


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
        body = BufferedBody(Counted(), 1000)
        body.write(audio[:500])
        assert files_of(tmp_path) == []
        body.write(audio[500:])
        await body.finish()
        (descriptor,) = files_of(tmp_path)
        assert list(tmp_path.iterdir()) == []  # no name: it goes with the process, however that ends
        lies = os.pread(descriptor, len(audio) + 1, 0)
        assert len(lies) == len(audio)
        assert b"Asha" not in lies
        # Not even the same words twice look the same: what lies there is as good as noise.
        assert len({lies[at : at + 16] for at in range(0, len(lies), 16)}) == -(-len(lies) // 16)
        lying.append(lies)
        body.close()
        assert files_of(tmp_path) == []
    assert lying[0] != lying[1]  # a key of each body's own


@as_linux_shows_them
async def test_a_disk_that_is_full_leaves_nothing_open(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = BufferedBody(Counted(max_bytes=3000), 1000)
    body.write(bytes(1000))
    with pytest.raises(Overloaded):
        body.write(bytes(3000))
    body.close()
    assert files_of(tmp_path) == []


def weight(body: BufferedBody) -> int:
    """The bytes of memory that a body's content takes, with what each object costs."""
    objects = [*body._blocks, *body._pieces]
    return sum(sys.getsizeof(each) for each in (body._blocks, body._pieces, *objects))


async def test_a_million_small_pieces_take_no_more_memory_than_their_bytes() -> None:
    body, heaviest, most = BufferedBody(Counted(), 2 * MEBIBYTE), 0, 0
    for number in range(1_000_000):
        body.write(CONTENT[number : number + 1])
        if number % 4096 == 0:
            heaviest = max(heaviest, weight(body) - number)
            most = max(most, len(body._blocks) + len(body._pieces))
    assert heaviest < 16 * KIBIBYTE
    assert most < 128
    await body.finish()
    assert body.sha256 == hashlib.sha256(CONTENT[:1_000_000]).hexdigest()
    body.close()
    assert weight(body) < KIBIBYTE


async def test_large_pieces_are_put_together_and_never_twice() -> None:
    body = BufferedBody(Counted(), 8 * MEBIBYTE)
    for at in range(0, 2 * MEBIBYTE, 128 * KIBIBYTE):
        body.write(CONTENT[at : at + 128 * KIBIBYTE])
    assert [len(block) for block in body._blocks] == [MEBIBYTE, MEBIBYTE]
    body.write(CONTENT)
    assert [len(block) for block in body._blocks] == [MEBIBYTE, MEBIBYTE, len(CONTENT)]


@pytest.mark.parametrize(
    ("size", "seconds", "is_given_up"),
    [
        (1, 19.9, False),  # a network that stumbles
        (20, 20.1, True),
        (2048 * 21, 21.0, False),  # live audio of 16 kbit/s
        (1024 * 299, 299.0, False),
        (1024 * 298, 299.0, True),
    ],
)
def test_a_body_is_too_slow_by_its_rate_since_it_began(
    size: int, seconds: float, *, is_given_up: bool
) -> None:
    assert is_too_slow(size, seconds) == is_given_up
