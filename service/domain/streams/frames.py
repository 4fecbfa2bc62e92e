"""Frames of streams: the two forms of audio (docs/vendor.md#stream), and WAV files of it."""

import base64
import binascii
import struct
from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

Frame = bytes | str


class Repeated(str):
    """The first frame of a stream, sent again on a new connection to the vendor: no log keeps it twice."""

    __slots__ = ()


SAMPLE_RATE = 16_000
_MIN_RATE, _MAX_RATE = 4_000, 192_000
_WAV_HEAD = struct.Struct("<4sI4s4sIHHIIHH4sI")
WAV_HEAD_BYTES = _WAV_HEAD.size


class _MediaFormat(Struct, rename="camel"):
    sample_rate: float | str | None = None


class _Start(Struct, rename="camel"):
    media_format: _MediaFormat = field(default_factory=_MediaFormat)


class _Media(Struct):
    payload: str = ""


class Envelope(Struct):
    """A JSON frame, of which only the event must be there."""

    event: str


class _AudioEnvelope(Envelope):
    start: _Start = field(default_factory=_Start)
    media: _Media = field(default_factory=_Media)


read_envelope = msgspec.json.Decoder(Envelope).decode
_read_audio = msgspec.json.Decoder(_AudioEnvelope).decode


def is_event(frame: Frame, event: str) -> bool:
    """Return whether a frame is the envelope of an event."""
    if not isinstance(frame, str):
        return False
    try:
        return read_envelope(frame).event == event
    except (msgspec.DecodeError, RecursionError):
        return False


def sample_rate_of(frame: Frame) -> int:
    """Return the sample rate that the first frame of a stream names, or the usual one."""
    try:
        named = _read_audio(frame).start.media_format.sample_rate if isinstance(frame, str) else None
        rate = int(named or SAMPLE_RATE)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return SAMPLE_RATE
    return rate if _MIN_RATE <= rate <= _MAX_RATE else SAMPLE_RATE


def samples_of(frame: Frame) -> bytes:
    """Return the PCM that a frame carries; a frame that cannot be read carries none."""
    if not isinstance(frame, str):
        return frame
    try:
        return base64.b64decode(_read_audio(frame).media.payload, validate=True)
    except (msgspec.DecodeError, binascii.Error, RecursionError):
        return b""


def media_frame(samples: bytes) -> str:
    """Return the envelope of some PCM."""
    payload = {"payload": base64.b64encode(samples).decode()}
    return msgspec.json.encode({"event": "media", "media": payload}).decode()


def wav_of(samples: bytes, rate: int) -> bytes:
    """Return PCM as a WAV file: mono, 16 bits."""
    size = len(samples)
    head = _WAV_HEAD.pack(
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )
    return head + samples


def rate_of_wav(wav: bytes) -> int:
    """Return the sample rate of a WAV file that `wav_of` made."""
    return int(_WAV_HEAD.unpack_from(wav)[7])


def start_frame(rate: int) -> str:
    """Return the envelope that begins a stream of a sample rate."""
    media_format = {"encoding": "audio/x-l16", "sampleRate": rate}
    return msgspec.json.encode({"event": "start", "start": {"mediaFormat": media_format}}).decode()


def join_samples(frames: Iterable[Frame]) -> bytes:
    """Return the PCM of several frames."""
    return b"".join(map(samples_of, frames))
