"""Cuts a recording by copying its packets, for the codecs whose cuts are exact."""

from collections.abc import Iterator

from service.media import opus_packets, wav
from service.media.cutting import Cutter, Piece
from service.media.levels import Levels
from service.media.m4a import FRAME_SAMPLES, M4aWriter
from service.media.messages import Cut, Kind
from service.media.ogg import OggWriter
from service.media.source import Source, decode
from service.media.survey import Survey
from service.media.units import ChunkWriter, Unit

_CONTAINERS = {
    "opus": {"ogg", "matroska"},
    "aac": {"mp4", "aac", "matroska"},
    "pcm": {"wav", "w64", "aiff", "au", "caf", "matroska"},
}
# The field of Opus for the samples to skip has 16 bits; FFmpeg skips at most a second of AAC exactly.
_MAX_SKIP = 0xFFFF
_MAX_SKIP_AAC = 4 * FRAME_SAMPLES
_MAX_PACKET_BYTES = 16 * 1024
_OPUS_HEAD_BYTES = 19
_SPARE_BYTES = 512
_AAC_CHANNELS = (1, 2)
_MAX_RATE = 384_000
_MAX_CHANNELS = 8
# PCM has no packets of its own: units of 20 ms take their place.
_UNITS_PER_SECOND = 50
# A chunk of PCM that is full after less than this shows that the recording is better compressed.
_MIN_CHUNK_SECONDS = 2.0


def is_copyable(source: Source, survey: Survey) -> bool:
    """Return whether cuts between the packets of the track are exact."""
    context = source.stream.codec_context
    family = "pcm" if wav.sample_bytes(source.codec) else source.codec
    if not survey.is_regular or source.format not in _CONTAINERS.get(family, ()):
        return False
    if family == "pcm":
        is_common = context.sample_rate <= _MAX_RATE and 0 < context.channels <= _MAX_CHANNELS
        return is_common and survey.skip == survey.trim == 0
    if survey.largest_packet > _MAX_PACKET_BYTES or survey.skip > _MAX_SKIP:
        return False
    if family == "opus":
        head = context.extradata or b""
        return head.startswith(b"OpusHead") and len(head) >= _OPUS_HEAD_BYTES
    is_common = source.stream.profile == "LC" and context.channels in _AAC_CHANNELS
    return is_common and survey.skip <= _MAX_SKIP_AAC and survey.trim < FRAME_SAMPLES


def writer_of(source: Source, survey: Survey, cut: Cut) -> ChunkWriter | None:
    """Return what writes the copied packets, or None if the vendor's formats or limits rule it out."""
    if not is_copyable(source, survey):
        return None
    context = source.stream.codec_context
    writer: ChunkWriter
    if source.codec == "opus":
        writer = OggWriter(context.extradata or b"")
        longest = opus_packets.MAX_SAMPLES
    elif source.codec == "aac":
        writer = M4aWriter(source.stream)
        longest = FRAME_SAMPLES
    else:
        writer = wav.WavWriter(source.codec, rate=context.sample_rate, channels=context.channels)
        longest = int(writer.rate * min(_MIN_CHUNK_SECONDS, cut.max_seconds))
        is_small = longest * writer.frame_bytes + writer.fixed_bytes <= cut.max_bytes
        return writer if is_small and Kind.WAV in cut.kinds else None
    # Half of a chunk must hold a packet; the other half may be pre-roll.
    is_small = 2 * survey.largest_packet + writer.fixed_bytes + _SPARE_BYTES <= cut.max_bytes
    is_short = 2 * longest <= cut.max_seconds * writer.rate
    return writer if is_small and is_short and writer.kind in cut.kinds else None


def copied(source: Source, survey: Survey, writer: ChunkWriter, cut: Cut) -> Iterator[Piece]:
    """Yield the chunks of a track that is not re-encoded."""
    levels = Levels()
    cutter = Cutter(writer, levels, max_seconds=cut.max_seconds, max_bytes=cut.max_bytes, skip=survey.skip)
    units = _PcmUnits(writer) if isinstance(writer, wav.WavWriter) else _PacketUnits(source)
    for packet in source.packets():
        data = bytes(packet)
        frames = decode(source.stream, packet)
        found = units.split(data)
        for frame in frames or ():
            levels.add(frame)
        if frames is None:
            levels.skip(sum(unit.samples for unit in found) / writer.rate)
        for unit in found:
            yield from cutter.add(unit)
    for unit in units.rest():
        yield from cutter.add(unit)
    yield from cutter.finish(trim=survey.trim)


class _PacketUnits:
    """Opus and AAC: a packet is a unit."""

    def __init__(self, source: Source) -> None:
        self._is_opus = source.codec == "opus"

    def split(self, data: bytes) -> list[Unit]:
        samples = opus_packets.samples_of(memoryview(data)) if self._is_opus else FRAME_SAMPLES
        return [Unit(data, samples or 0)]

    def rest(self) -> list[Unit]:
        return []


class _PcmUnits:
    """PCM: 20 ms are a unit, however the container packs them."""

    def __init__(self, writer: wav.WavWriter) -> None:
        self._frame_bytes = writer.frame_bytes
        self._samples = writer.rate // _UNITS_PER_SECOND
        self._left = b""

    def split(self, data: bytes) -> list[Unit]:
        data = self._left + data
        size = self._samples * self._frame_bytes
        whole = len(data) // size * size
        self._left = data[whole:]
        return [Unit(data[at : at + size], self._samples) for at in range(0, whole, size)]

    def rest(self) -> list[Unit]:
        samples = len(self._left) // self._frame_bytes
        return [Unit(self._left[: samples * self._frame_bytes], samples)] if samples else []
