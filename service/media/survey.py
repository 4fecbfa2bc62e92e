"""Reads the whole container of a recording once, to know its length and whether its packets can be copied.

Only samples of the audio are decoded: a quarter of a second of each half minute.
"""

import struct
from collections.abc import Callable
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.packet import PacketSideData

from service.media import opus_packets
from service.media.m4a import FRAME_SAMPLES
from service.media.messages import Reason, Unreadable
from service.media.source import Source, decode
from service.media.truncation import ends_too_early

_PROBE_SECONDS = 0.25
_PROBE_EVERY_SECONDS = 30
# Decoders lack the packet before a probe begins; if most packets fail, they are no such audio.
_TOLERATED_PART = 0.5
# Headers are rounded, and some count a packet more than there is.
_MISSING_SECONDS = 1.0
# The containers whose headers say how long the track is. Others have none, or FFmpeg estimates it.
_CONTAINERS_WITH_LENGTH = {"mp4", "flac", "aiff", "au", "caf"}
_MIN_RATE, _MAX_RATE = 1000, 768_000
_CHANGES = {"new_extradata", "param_change"}
_SKIP_SAMPLES = struct.Struct("<II")


class Survey:
    """The facts of a track, gathered packet by packet: an hour has 180,000 of them, so each costs little."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._context = source.stream.codec_context
        self._rate = self._context.sample_rate
        self._samples_of = _counter_of(source)
        # Containers round durations, so the length is counted in samples where packets tell them.
        self._clock = Fraction(self._rate) if self._samples_of else 1 / (source.stream.time_base or 1)
        self._length = 0
        self._next_probe = 0
        self._probe_length = int(_PROBE_SECONDS * self._clock)
        self._probe_distance = int(_PROBE_EVERY_SECONDS * self._clock)
        self._probed = self._failed = self._decoded_samples = 0
        self.packets = self.largest_packet = 0
        self._last: av.Packet[AudioStream] | None = None
        # Samples that the first packet's decoder drops at its beginning, and the last one's at its end.
        self.skip = self.trim = 0
        self._dropped = 0
        # Whether each packet begins where the one before it ends, so that packets can be copied.
        self.is_regular = True

    @property
    def seconds(self) -> float:
        """The length of the track, as far as it was read."""
        return float(self._length / self._clock - Fraction(self._dropped, self._rate))

    def read(self) -> None:
        """Read all packets; raises Unreadable if this is not a whole track that decodes."""
        if not _MIN_RATE <= self._rate <= _MAX_RATE:
            raise Unreadable(Reason.NOT_DECODABLE)
        for packet in self._source.packets():
            self._count(packet)
        self._decode(None)
        self._trim_by_duration()
        if self._is_truncated():
            raise Unreadable(Reason.TRUNCATED)
        if not self.packets or self.seconds <= 0:
            raise Unreadable(Reason.NO_SAMPLES)
        if self._failed > self._probed * _TOLERATED_PART or not self._decoded_samples:
            raise Unreadable(Reason.NOT_DECODABLE)

    def _count(self, packet: "av.Packet[AudioStream]") -> None:
        if self.trim:
            # FFmpeg's side data says that samples are dropped in the middle, which no copy can say.
            self.is_regular = False
        for side_data in packet.iter_sidedata():
            self._count_side_data(side_data)
        if self._length >= self._next_probe:
            self._probe(packet)
        self.packets += 1
        self.largest_packet = max(self.largest_packet, packet.size)
        self._length += self._length_of(packet)
        self._last = packet

    def _length_of(self, packet: "av.Packet[AudioStream]") -> int:
        if self._samples_of is None:
            # Some containers name no duration for the last packet, or for any.
            return packet.duration or int(self._context.frame_size * self._clock / self._rate)
        samples = self._samples_of(packet)
        if samples is None:
            self.is_regular = False
        return samples or 0

    def _count_side_data(self, side_data: PacketSideData) -> None:
        if side_data.data_type == "skip_samples":
            start, end = _SKIP_SAMPLES.unpack_from(bytes(side_data))
            self._dropped += start + end
            # An M4A file has no field for samples that every player drops at the end.
            is_copied = not (start and self.packets) and not (end and self._source.codec == "aac")
            self.is_regular = self.is_regular and is_copied
            self.skip, self.trim = self.skip or start, end
        elif side_data.data_type in _CHANGES:
            self.is_regular = False

    def _probe(self, packet: "av.Packet[AudioStream]") -> None:
        self._decode(packet)
        # The first packets may be such that players skip them whole.
        if self._decoded_samples and self._length >= self._next_probe + self._probe_length:
            self._next_probe += self._probe_distance

    def _trim_by_duration(self) -> None:
        """MP4 shortens the last packet of AAC instead of saying how many samples to drop."""
        if self._last is None or self._source.codec != "aac" or self._source.format != "mp4":
            return
        samples = round((self._last.duration or 0) / self._clock * self._rate)
        if 0 < samples < FRAME_SAMPLES:
            self.trim = FRAME_SAMPLES - samples

    def _decode(self, packet: "av.Packet[AudioStream] | None") -> None:
        frames = decode(self._source.stream, packet)
        self._probed += 1
        if frames is None:
            self._failed += 1
        for frame in frames or ():
            self._decoded_samples += frame.samples
            # HE-AAC decodes to twice the samples that the container counts.
            is_doubled = frame.samples > FRAME_SAMPLES or frame.sample_rate != self._rate
            self.is_regular = self.is_regular and not (self._source.codec == "aac" and is_doubled)

    def _is_truncated(self) -> bool:
        if ends_too_early(self._source.file, self._source.format):
            return True
        if self._last is None:
            return False
        if self._source.format == "mp4" and self._last.is_corrupt:
            return True
        end = ((self._last.pts or 0) + (self._last.duration or 0)) * self._last.time_base
        return max(self.seconds, float(end)) < self._announced_seconds() - _MISSING_SECONDS

    def _announced_seconds(self) -> float:
        """Return where the headers say that the track ends, or 0 if they do not say it."""
        stream, container = self._source.stream, self._source.container
        is_known = self._source.format in _CONTAINERS_WITH_LENGTH
        # The header of an MP3 file that counts its frames also says how many samples to skip.
        is_known = is_known or (self._source.format == "mp3" and self.skip > 0)
        if is_known and stream.duration is not None:
            return float(stream.duration * (stream.time_base or 0))
        # Matroska says how long the longest track is.
        if self._source.format == "matroska" and len(container.streams) == 1 and container.duration:
            return container.duration / av.time_base
        return 0.0


def _counter_of(source: Source) -> "Callable[[av.Packet[AudioStream]], int | None] | None":
    if source.codec == "opus":
        return lambda packet: opus_packets.samples_of(memoryview(packet))
    if source.codec == "aac" and source.format == "matroska":
        return lambda _: FRAME_SAMPLES
    return None
