"""A cut lies in a silence if there is one, and no chunk exceeds a limit."""

from __future__ import annotations

import array
from collections.abc import Sequence

import av
import pytest

from service.media.cutting import Cutter, Piece
from service.media.levels import Levels
from service.media.messages import Kind
from service.media.units import Unit
from service.media.wav import WavWriter

RATE, UNIT = 8000, 160
LOUD, HUM = 8000, 20


class PacketWriter:
    """Writes units as a list, with a pre-roll as Opus has it."""

    kind = Kind.OGG
    rate = RATE
    preroll_samples = 3 * UNIT
    fixed_bytes = 100

    def unit_bytes(self, unit: Unit) -> int:
        return len(unit.data) + 1

    def write(self, units: Sequence[Unit], *, skip: int, trim: int) -> bytes:
        samples = sum(unit.samples for unit in units)
        size = sum(map(self.unit_bytes, units)) + self.fixed_bytes
        self.written.append((samples, skip, trim, size))
        return b"".join(unit.data for unit in units[skip // UNIT :])

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int, int]] = []


def sound(*parts: tuple[float, int]) -> list[int]:
    """Samples of parts of a recording, each with its seconds and its loudness."""
    return [
        level if number % 2 else -level for seconds, level in parts for number in range(int(seconds * RATE))
    ]


def cut(
    samples: list[int],
    *,
    max_seconds: float,
    max_bytes: int = 1 << 20,
    writer: WavWriter | PacketWriter | None = None,
    sample_format: str = "s16",
) -> list[Piece]:
    writer = writer or WavWriter("pcm_s16le", rate=RATE, channels=1)
    levels = Levels()
    cutter = Cutter(writer, levels, max_seconds=max_seconds, max_bytes=max_bytes, skip=0)
    pieces: list[Piece] = []
    for first in range(0, len(samples), UNIT):
        some = array.array("h", samples[first : first + UNIT])
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(some))
        frame.sample_rate = RATE
        frame.planes[0].update(some.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
        (converted,) = av.AudioResampler(sample_format, "mono", RATE).resample(frame)
        levels.add(converted)
        pieces += cutter.add(Unit(some.tobytes(), len(some)))
    return [*pieces, *cutter.finish(trim=0)]


def ends(pieces: list[Piece]) -> list[float]:
    return [piece.start_seconds + piece.seconds for piece in pieces[:-1]]


@pytest.mark.parametrize("sample_format", ["u8", "s16", "s32", "flt", "dbl", "s16p", "fltp"])
def test_a_cut_lies_in_a_silence_before_the_limit(sample_format: str) -> None:
    samples = sound((6, LOUD), (1, HUM), (5, LOUD))
    (end,) = ends(cut(samples, max_seconds=10, sample_format=sample_format))
    assert 6.1 < end < 6.9


def test_the_last_of_several_silences_is_taken() -> None:
    samples = sound((3, LOUD), (1, 0), (3, LOUD), (1, 0), (4, LOUD))
    (end,) = ends(cut(samples, max_seconds=10))
    assert 7.1 < end < 7.9


def test_a_silence_more_than_twenty_seconds_before_the_limit_is_too_early() -> None:
    early = sound((8, LOUD), (1, 0), (30, LOUD))
    assert ends(cut(early, max_seconds=30)) == [30.0]
    late = sound((12, LOUD), (1, 0), (30, LOUD))
    assert 12.1 < ends(cut(late, max_seconds=30))[0] < 12.9


def test_a_pause_between_two_words_is_no_silence() -> None:
    samples = sound((6, LOUD), (0.2, 0), (6, LOUD))
    assert ends(cut(samples, max_seconds=10)) == [10.0]


def test_a_quiet_voice_is_no_silence() -> None:
    """A recording as quiet as the noise of another one is cut at its own silences."""
    samples = sound((6, 120), (1, 2), (6, 120))
    (end,) = ends(cut(samples, max_seconds=10))
    assert 6.1 < end < 6.9


def test_without_a_silence_chunks_are_as_long_as_the_limit() -> None:
    pieces = cut(sound((25, LOUD)), max_seconds=10)
    assert [piece.seconds for piece in pieces] == [10.0, 10.0, 5.0]


def test_no_snippet_is_left_at_the_end() -> None:
    pieces = cut(sound((10.3, LOUD)), max_seconds=10)
    assert [piece.seconds for piece in pieces] == pytest.approx([9.3, 1.0], abs=0.03)


def test_silence_alone_is_cut_at_the_limit() -> None:
    assert [piece.seconds for piece in cut(sound((12, 0)), max_seconds=5)] == pytest.approx(
        [5, 5, 2], abs=0.2
    )


def test_all_samples_are_in_one_chunk_each() -> None:
    samples = [(number * 7919) % 4000 for number in range(13 * RATE + 77)]
    pieces = cut(samples, max_seconds=3)
    assert b"".join(piece.data[46:] for piece in pieces) == array.array("h", samples).tobytes()


def test_a_chunk_is_not_larger_than_the_limit_with_its_pre_roll() -> None:
    writer = PacketWriter()
    samples = sound((9, LOUD))
    max_bytes = 100 + 40 * (2 * UNIT + 1)
    pieces = cut(samples, max_seconds=5, max_bytes=max_bytes, writer=writer)
    assert b"".join(piece.data for piece in pieces) == array.array("h", samples).tobytes()
    assert all(size <= max_bytes for *_, size in writer.written)
    assert [(samples, skip) for samples, skip, *_ in writer.written[:3]] == [
        (40 * UNIT, 0),
        (40 * UNIT, 3 * UNIT),
        (40 * UNIT, 3 * UNIT),
    ]


def test_a_chunk_is_not_longer_than_the_limit_with_its_pre_roll() -> None:
    writer = PacketWriter()
    pieces = cut(sound((9, LOUD)), max_seconds=2, writer=writer)
    assert max(samples for samples, *_ in writer.written) == 2 * RATE
    assert sum(piece.seconds for piece in pieces) == pytest.approx(9)
