"""Re-encodes a recording whose packets cannot be copied: to 16 kHz mono Opus, the input of speech models.

One encoder runs through the whole recording and its packets are cut as copied ones are, so that a cut
changes no sample.
"""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo

from service.media import opus_packets
from service.media.cutting import Cutter, Piece
from service.media.levels import Levels
from service.media.messages import Cut, Kind, Reason, Unreadable
from service.media.ogg import OggWriter
from service.media.source import Source, decode, translated_errors
from service.media.units import Unit
from service.media.wav import WavWriter

_RATE = 16_000
_FRAME_SAMPLES = _RATE // 50
_BITS_PER_SECOND = 32_000
# libopus counts to 10, but the quality of speech hardly rises above 5, and the time doubles.
_COMPLEXITY = 5
_PRE_SKIP = slice(10, 12)
_RATIO = opus_packets.RATE // _RATE
# A click costs a packet or two; a recording that fails more often than that loses speech.
_TOLERATED_FAILURES = 50
_TOLERATED_PART = 0.1


def transcoded(source: Source, cut: Cut) -> Iterator[Piece]:
    """Yield the chunks of a track that is re-encoded: as Opus, or as WAV if the vendor lists no Ogg."""
    if Kind.OGG in cut.kinds:
        return _as_opus(source, cut)
    if Kind.WAV in cut.kinds:
        return _as_pcm(source, cut)
    raise Unreadable(Reason.FORMAT_MISSING)


def kind_of_transcoded(cut: Cut) -> Kind:
    """Return the kind of file that `transcoded` makes."""
    return Kind.OGG if Kind.OGG in cut.kinds else Kind.WAV


def _as_opus(source: Source, cut: Cut) -> Iterator[Piece]:
    encoder = _opus_encoder()
    head = encoder.extradata or b""
    skip = int.from_bytes(head[_PRE_SKIP], "little")
    levels = Levels()
    cutter = Cutter(OggWriter(head), levels, max_seconds=cut.max_seconds, max_bytes=cut.max_bytes, skip=skip)
    samples = encoded = 0
    for frame in _frames_of_mono(source):
        levels.add(frame)
        samples += frame.samples * _RATIO
        for unit in _encoded(encoder, frame):
            encoded += unit.samples
            yield from cutter.add(unit)
    for unit in _encoded(encoder, None):
        encoded += unit.samples
        yield from cutter.add(unit)
    yield from cutter.finish(trim=encoded - skip - samples)


def _as_pcm(source: Source, cut: Cut) -> Iterator[Piece]:
    levels = Levels()
    writer = WavWriter("pcm_s16le", rate=_RATE, channels=1)
    cutter = Cutter(writer, levels, max_seconds=cut.max_seconds, max_bytes=cut.max_bytes, skip=0)
    for frame in _frames_of_mono(source):
        levels.add(frame)
        data = bytes(frame.planes[0])[: frame.samples * writer.frame_bytes]
        yield from cutter.add(Unit(data, frame.samples))
    yield from cutter.finish(trim=0)


def _opus_encoder() -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)  # noqa: S101 - the codec is of audio
    encoder.sample_rate = _RATE
    encoder.layout = "mono"
    encoder.format = "s16"
    encoder.time_base = Fraction(1, _RATE)
    encoder.bit_rate = _BITS_PER_SECOND
    encoder.options = {"compression_level": str(_COMPLEXITY), "application": "audio"}
    encoder.open()
    return encoder


def _encoded(encoder: AudioCodecContext, frame: av.AudioFrame | None) -> list[Unit]:
    units = []
    for packet in encoder.encode(frame):
        data = bytes(packet)
        units.append(Unit(data, opus_packets.samples_of(memoryview(data)) or 0))
    return units


def _frames_of_mono(source: Source) -> Iterator[av.AudioFrame]:
    """Yield the track as 16 kHz mono in frames of 20 ms; the last one may be shorter."""
    fifo = AudioFifo()
    with translated_errors(Reason.NOT_DECODABLE):
        for frame in _resampled(source):
            fifo.write(_without_time(frame))
            while (full := fifo.read(_FRAME_SAMPLES)) is not None:
                yield full
        if (rest := fifo.read(0, partial=True)) is not None:
            yield rest


def _resampled(source: Source) -> Iterator[av.AudioFrame]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=_RATE)
    form = None
    for frame in _decoded(source):
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form not in {None, found}:
            # The file changes its format on its way, as chained streams do.
            yield from resampler.resample(None)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=_RATE)
        form = found
        yield from resampler.resample(_without_time(frame))
    if form is not None:
        yield from resampler.resample(None)


def _decoded(source: Source) -> Iterator[av.AudioFrame]:
    failures = 0
    for packets, packet in enumerate(source.packets()):
        frames = decode(source.stream, packet)
        failures += frames is None
        if failures > _TOLERATED_FAILURES + packets * _TOLERATED_PART:
            raise Unreadable(Reason.NOT_DECODABLE)
        yield from frames or ()
    yield from decode(source.stream, None) or ()


def _without_time(frame: av.AudioFrame) -> av.AudioFrame:
    """Remove the time stamp, because gaps between stamps are no gaps between samples."""
    frame.pts = None
    return frame
