"""Writes PCM as WAV files: the values of the samples stay as they are."""

import struct
from collections.abc import Sequence

from service.media.messages import Kind
from service.media.units import Unit

_PCM, _FLOAT, _A_LAW, _MU_LAW = 1, 3, 6, 7
# FFmpeg's name of a codec that WAV holds → WAV's number of it, bits of a sample.
_CODECS = {
    "pcm_u8": (_PCM, 8),
    "pcm_s16le": (_PCM, 16),
    "pcm_s24le": (_PCM, 24),
    "pcm_s32le": (_PCM, 32),
    "pcm_f32le": (_FLOAT, 32),
    "pcm_f64le": (_FLOAT, 64),
    "pcm_alaw": (_A_LAW, 8),
    "pcm_mulaw": (_MU_LAW, 8),
}
_HEADER = struct.Struct("<4sI4s4sIHHIIHHH4sI")
_FORMAT_BYTES = 18


def sample_bytes(codec: str) -> int | None:
    """Return the bytes of one sample of one channel, or None if WAV files do not hold the codec."""
    known = _CODECS.get(codec)
    return known[1] // 8 if known else None


class WavWriter:
    """Writes chunks of one track."""

    kind = Kind.WAV
    preroll_samples = 0
    fixed_bytes = _HEADER.size + 1

    def __init__(self, codec: str, *, rate: int, channels: int) -> None:
        self.rate = rate
        self._channels = channels
        self._number, self._bits = _CODECS[codec]
        self.frame_bytes = channels * self._bits // 8

    def unit_bytes(self, unit: Unit) -> int:
        """Return the bytes of the unit: WAV adds none."""
        return len(unit.data)

    def write(self, units: Sequence[Unit], *, skip: int, trim: int) -> bytes:
        """Return the WAV file; PCM has nothing to skip or to trim."""
        assert skip == trim == 0  # noqa: S101 - no source of PCM has either
        size = sum(len(unit.data) for unit in units)
        header = _HEADER.pack(
            b"RIFF",
            _HEADER.size - 8 + size + size % 2,
            b"WAVE",
            b"fmt ",
            _FORMAT_BYTES,
            self._number,
            self._channels,
            self.rate,
            self.rate * self.frame_bytes,
            self.frame_bytes,
            self._bits,
            0,
            b"data",
            size,
        )
        return b"".join([header, *(unit.data for unit in units), b"\0" * (size % 2)])
