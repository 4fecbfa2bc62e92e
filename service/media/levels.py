"""Measures the loudness of decoded audio, to find the silences in which a recording is best cut."""

import array
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from operator import mul

import av

_BLOCK_SECONDS = 0.02
# A cut needs as much silence before it and after it.
_MARGIN_SECONDS = 0.15
# Silence is this much below the loudest block of a chunk, but no noise of a quiet room is loud.
_BELOW_LOUDEST = 30.0
_LOUDEST_SILENCE = -35.0
_ALWAYS_SILENCE = -70.0
_NOTHING = -200.0
# Every 13th sample is enough for a level. The prime number keeps out of step with pure tones.
_STEP = 13
# FFmpeg's sample formats → the type code of `array`, the value of full scale.
_TYPES = {
    "u8": ("B", 128.0),
    "s16": ("h", 2.0**15),
    "s32": ("i", 2.0**31),
    "flt": ("f", 1.0),
    "dbl": ("d", 1.0),
}
_UNSIGNED_ZERO = 128


class Levels:
    """The levels of blocks of about 20 ms in decibels of full scale, in the order of the recording."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque()
        self._levels: deque[float] = deque()
        self._position = 0.0

    @property
    def position(self) -> float:
        """The seconds of audio that are measured or skipped."""
        return self._position

    def add(self, frame: av.AudioFrame) -> None:
        """Measure a decoded frame, which follows the one before it."""
        block = max(1, round(frame.sample_rate * _BLOCK_SECONDS))
        channels = _channels_of(frame)
        for first in range(0, frame.samples, block):
            last = min(frame.samples, first + block)
            self._append((last - first) / frame.sample_rate, _level(frame, channels, first, last))

    def skip(self, seconds: float) -> None:
        """Step over audio that could not be decoded; it counts as loud, so that no cut is made in it."""
        self._append(seconds, 0.0)

    def forget_until(self, seconds: float) -> None:
        """Drop the levels of audio before a cut."""
        while self._ends and self._ends[0] < seconds - 2 * _MARGIN_SECONDS:
            self._ends.popleft()
            self._levels.popleft()

    def silences(self, moments: list[float]) -> list[bool]:
        """Return for each moment, in seconds, whether the audio around it is silent."""
        ends, levels = list(self._ends), list(self._levels)
        limit = min(_LOUDEST_SILENCE, max(levels, default=_NOTHING) - _BELOW_LOUDEST)
        limit = max(limit, _ALWAYS_SILENCE)
        louder = [end for end, level in zip(ends, levels, strict=True) if level > limit]
        return [
            moment + _MARGIN_SECONDS <= self._position
            and bisect_right(louder, moment - _MARGIN_SECONDS)
            == bisect_left(louder, moment + _MARGIN_SECONDS + _BLOCK_SECONDS)
            for moment in moments
        ]

    def _append(self, seconds: float, level: float) -> None:
        self._position += seconds
        self._ends.append(self._position)
        self._levels.append(level)


def _channels_of(frame: av.AudioFrame) -> list["array.array[float]"]:
    """Return the samples of each channel, or of all channels in turns if the format mixes them."""
    name = frame.format.name.removesuffix("p")
    typecode, _ = _TYPES.get(name, ("", 0.0))
    if not typecode:
        return []
    found = []
    for plane in frame.planes:
        samples: array.array[float] = array.array(typecode)
        samples.frombytes(memoryview(plane)[: len(memoryview(plane)) // samples.itemsize * samples.itemsize])
        found.append(samples)
    return found


def _level(frame: av.AudioFrame, channels: list["array.array[float]"], first: int, last: int) -> float:
    """Return the level of the loudest channel; formats that nobody measures are loud."""
    if not channels:
        return 0.0
    name = frame.format.name.removesuffix("p")
    full_scale = _TYPES[name][1]
    mixed = 1 if frame.format.is_planar else len(frame.layout.channels)
    power = 0.0
    for samples in channels:
        for channel in range(mixed):
            some: Sequence[float] = samples[first * mixed + channel : last * mixed : mixed * _STEP]
            if name == "u8":
                some = [value - _UNSIGNED_ZERO for value in some]
            if some:
                power = max(power, sum(map(mul, some, some)) / len(some))
    return 10 * math.log10(power / full_scale**2) if power > 0 else _NOTHING
