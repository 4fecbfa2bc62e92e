"""Computes playing times from the bytes alone: WAV, raw PCM, and WebM/Opus cut at any byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PCM_BYTES_PER_SAMPLE = 2
OPUS_SAMPLES_PER_SECOND = 48_000

_EBML = 0x1A45DFA3
_SEGMENT, _INFO, _TRACKS, _TRACK_ENTRY = 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE
_CLUSTER, _BLOCK_GROUP = 0x1F43B675, 0xA0
_MASTERS = frozenset({_SEGMENT, _INFO, _TRACKS, _TRACK_ENTRY, _CLUSTER, _BLOCK_GROUP})
_TIMECODE_SCALE, _CODEC_ID, _CODEC_DELAY = 0x2AD7B1, 0x86, 0x56AA
_CLUSTER_TIMECODE, _SIMPLE_BLOCK, _BLOCK, _DISCARD_PADDING = 0xE7, 0xA3, 0xA1, 0x75A2

_LONGEST_ROUNDING_SECONDS = 0.021


def pcm_seconds(size_bytes: int, sample_rate: int) -> float:
    """Seconds of 16-bit mono PCM (docs/vendor.md#stream)."""
    return size_bytes / (PCM_BYTES_PER_SAMPLE * sample_rate)


def wav_seconds(data: bytes) -> float | None:
    """Seconds of a WAV file; None when it has no usable `fmt ` or `data` chunk.

    A `data` size of 0 or beyond the end, which live recorders write, means: to the end of the bytes.
    """
    if len(data) < 12 or data[:4] not in {b"RIFF", b"RF64"} or data[8:12] != b"WAVE":
        return None
    position, bytes_per_second = 12, 0
    while position + 8 <= len(data):
        name = data[position : position + 4]
        declared = int.from_bytes(data[position + 4 : position + 8], "little")
        start = position + 8
        if name == b"fmt ":
            bytes_per_second = _wav_bytes_per_second(data[start : start + 16])
        if name == b"data":
            available = len(data) - start
            size = declared if 0 < declared <= available else available
            return size / bytes_per_second if bytes_per_second else None
        position = start + declared + (declared & 1)
    return None


def _wav_bytes_per_second(form: bytes) -> int:
    if len(form) < 16:
        return 0
    channels, sample_rate = int.from_bytes(form[2:4], "little"), int.from_bytes(form[4:8], "little")
    computed = channels * sample_rate * int.from_bytes(form[14:16], "little") // 8
    return computed or int.from_bytes(form[8:12], "little")


@dataclass
class _Track:
    """Facts about the length of one WebM file, read from its EBML header on."""

    codec: bytes = b""
    nanoseconds_per_tick: int = 1_000_000
    cluster_tick: int = 0
    codec_delay: float = 0.0
    padding: float = 0.0
    packets: float = 0.0
    first: float | None = None
    end: float = 0.0

    def read(self, element: int, payload: bytes) -> None:
        """Take in one element of the walk."""
        if element == _TIMECODE_SCALE:
            self.nanoseconds_per_tick = int.from_bytes(payload, "big")
        elif element == _CODEC_ID:
            self.codec = payload.rstrip(b"\0")
        elif element == _CODEC_DELAY:
            self.codec_delay = int.from_bytes(payload, "big") / 1e9
        elif element == _CLUSTER_TIMECODE:
            self.cluster_tick = int.from_bytes(payload, "big")
        elif element == _DISCARD_PADDING:
            self.padding += int.from_bytes(payload, "big", signed=True) / 1e9
        elif element in {_SIMPLE_BLOCK, _BLOCK}:
            self._read_block(payload)

    def _read_block(self, payload: bytes) -> None:
        track = _read_number(payload, 0, keep_marker=False)
        if track is None or len(payload) < track[1] + 4:
            return
        offset = track[1]
        tick = self.cluster_tick + int.from_bytes(payload[offset : offset + 2], "big", signed=True)
        start = tick * self.nanoseconds_per_tick / 1e9
        length = opus_packet_seconds(payload[offset + 3 :])
        self.first = start if self.first is None else min(self.first, start)
        self.end = max(self.end, start + length)
        self.packets += length

    def seconds(self) -> float | None:
        """Audible seconds; the block times win where silence was left out between packets."""
        if self.codec != b"A_OPUS" or self.first is None:
            return None
        span = self.end - self.first
        length = self.packets if abs(span - self.packets) <= _LONGEST_ROUNDING_SECONDS else span
        return max(0.0, length - self.codec_delay - self.padding)


def webm_seconds(data: bytes) -> float | None:
    """Seconds of WebM/Opus; `data` is the chunks' bytes in order, whole files or slices of one.

    None when there is no Opus track. A truncated or damaged end is left out, not guessed.
    """
    total, track, known = 0.0, _Track(), False
    for element, payload in _walk(data):
        if element == _EBML:
            seconds = track.seconds()
            total, known, track = total + (seconds or 0.0), known or seconds is not None, _Track()
        else:
            track.read(element, payload)
    seconds = track.seconds()
    return round(total + (seconds or 0.0), 6) if known or seconds is not None else None


def opus_packet_seconds(packet: bytes) -> float:
    """Seconds of one Opus packet, from its first two bytes (RFC 6716, section 3.1)."""
    if not packet:
        return 0.0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        milliseconds = (10.0, 20.0, 40.0, 60.0)[config % 4]
    elif config < 16:
        milliseconds = (10.0, 20.0)[config % 2]
    else:
        milliseconds = (2.5, 5.0, 10.0, 20.0)[config % 4]
    counted = packet[1] & 0x3F if len(packet) > 1 else 0
    frames = (1, 2, 2, counted)[code]
    return frames * milliseconds / 1000


def _walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while (head := _read_element_head(data, position)) is not None:
        element, size, position = head
        if element in _MASTERS:
            continue
        if size is None or position + size > len(data):
            return
        yield element, data[position : position + size]
        position += size


def _read_element_head(data: bytes, position: int) -> tuple[int, int | None, int] | None:
    element = _read_number(data, position, keep_marker=True)
    if element is None:
        return None
    size = _read_number(data, position + element[1], keep_marker=False)
    if size is None:
        return None
    unknown = size[0] == (1 << (7 * size[1])) - 1
    return element[0], None if unknown else size[0], position + element[1] + size[1]


def _read_number(data: bytes, position: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """Read an EBML variable-length integer and its width in bytes (RFC 8794, section 4)."""
    if position >= len(data) or data[position] == 0:
        return None
    width = 9 - data[position].bit_length()
    if position + width > len(data):
        return None
    value = int.from_bytes(data[position : position + width], "big")
    return (value if keep_marker else value & ((1 << (7 * width)) - 1)), width
