"""The files of chunks: their sizes are bounded beforehand, and what players skip is exact."""

from __future__ import annotations

import io
import random

import av
import pytest

from service.media import opus_packets
from service.media.m4a import M4aWriter
from service.media.ogg import OggWriter
from service.media.units import ChunkWriter, Unit
from tests.support.media_files import decoded, encode, voice

HEAD = b"OpusHead" + bytes([1, 1, 56, 1]) + (48_000).to_bytes(4, "little") + bytes(3)


def bound(writer: ChunkWriter, units: list[Unit]) -> int:
    return writer.fixed_bytes + sum(map(writer.unit_bytes, units))


@pytest.mark.parametrize(
    "sizes", [[1], [0] * 700, [254, 255, 256, 510] * 90, [70_000, 3], [65_025] * 3, [120] * 3000]
)
def test_an_ogg_file_is_not_larger_than_its_bound_and_holds_its_packets(sizes: list[int]) -> None:
    units = [Unit(bytes([8]) + random.Random(size).randbytes(size), 960) for size in sizes]
    writer = OggWriter(HEAD)
    file = writer.write(units, skip=100, trim=50)
    assert len(file) <= bound(writer, units)
    with av.open(io.BytesIO(file)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert packets == [unit.data for unit in units]


def test_players_skip_the_beginning_and_the_end() -> None:
    with av.open(io.BytesIO(encode("ogg", "libopus", voice()))) as container:
        units = [Unit(bytes(packet), 960) for packet in container.demux(audio=0) if packet.size]
        head = container.streams.audio[0].codec_context.extradata
    assert len(decoded(OggWriter(head or b"").write(units[:50], skip=1000, trim=300))) == 50 * 960 - 1300


def test_an_m4a_file_is_not_larger_than_its_bound() -> None:
    content = encode("adts", "aac", voice())
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        units = [Unit(bytes(packet), 1024) for packet in container.demux(stream) if packet.size]
        writer = M4aWriter(stream)
        for number in (1, 2, 40):
            assert len(writer.write(units[:number], skip=0, trim=1)) <= bound(writer, units[:number])


def test_the_edit_list_of_an_m4a_file_counts_samples() -> None:
    """In milliseconds, as by default, some players would cut off up to a millisecond."""
    content = encode("ipod", "aac", voice(44_100), rate=44_100)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        units = [Unit(bytes(packet), 1024) for packet in container.demux(stream) if packet.size]
        file = M4aWriter(stream).write(units[:20], skip=2048, trim=0)
    edits = file.index(b"elst") + 12
    assert [int.from_bytes(file[at : at + 4]) for at in (edits, edits + 4)] == [18 * 1024, 2048]


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (bytes([0 << 3]), 480),
        (bytes([3 << 3]), 2880),
        (bytes([13 << 3 | 1]), 1920),
        (bytes([16 << 3 | 2]), 240),
        (bytes([31 << 3 | 3, 6]), 5760),
        (bytes([31 << 3 | 3, 7]), None),
        (bytes([31 << 3 | 3, 0]), None),
        (bytes([31 << 3 | 3]), None),
        (b"", None),
    ],
)
def test_the_length_of_opus_packets(packet: bytes, samples: int | None) -> None:
    assert opus_packets.samples_of(memoryview(packet)) == samples
