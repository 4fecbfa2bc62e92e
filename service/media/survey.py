"""Reads the whole container of a recording once, to know its length and whether its packets can be copied.

Only samples of the audio are decoded: one second of each half minute.
"""

import struct

import av
from av.audio.stream import AudioStream

from service.media import opus_packets
from service.media.m4a import FRAME_SAMPLES
from service.media.messages import Reason, Unreadable
from service.media.source import Source, decode
from service.media.truncation import ends_too_early

_PROBE_SECONDS = 1.0
_PROBE_EVERY_SECONDS = 30.0
# Decoders lack the packet before a probe begins; if most packets fail, they are no such audio.
_TOLERATED_PART = 0.5
# Headers are rounded, and some count a packet more than there is.
_MISSING_SECONDS = 1.0
# The containers whose headers say how long the track is. Others have none, or FFmpeg estimates it.
_CONTAINERS_WITH_LENGTH = {"mp4", "flac", "aiff", "au", "caf", "asf"}
_MIN_RATE, _MAX_RATE = 1000, 768_000
_SKIP_SAMPLES = struct.Struct("<II")


class Survey:
    """The facts of a track, gathered packet by packet."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._context = source.stream.codec_context
        self._rate = self._context.sample_rate
        self.packets = self.largest_packet = 0
        # The length so far, in samples where packets tell it, otherwise in the time base of the track.
        self._samples = self._ticks = 0
        self._last_ticks = self._last_end = 0
        self._probe_started = 0.0
        self._probed = self._failed = self._decoded_samples = 0
        # Samples that the first packet's decoder drops at its beginning, and the last one's at its end.
        self.skip = self.trim = 0
        self._dropped = 0
        self._is_cut_off = False
        # Whether each packet begins where the one before it ends, so that packets can be copied.
        self.is_regular = True

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

    @property
    def seconds(self) -> float:
        """The length of the track, as far as it was read."""
        return self._seconds_of(self._ticks) + (self._samples - self._dropped) / self._rate

    def _count(self, packet: "av.Packet[AudioStream]") -> None:
        # A packet after one whose end is dropped: FFmpeg's side data cannot be copied into the middle.
        self.is_regular = self.is_regular and not self.trim
        self._count_side_data(packet)
        self.packets += 1
        self.largest_packet = max(self.largest_packet, packet.size)
        self._is_cut_off = packet.is_corrupt
        if (seconds := self.seconds) >= self._probe_started:
            self._decode(packet)
            if seconds >= self._probe_started + _PROBE_SECONDS:
                self._probe_started += _PROBE_EVERY_SECONDS
        self._count_length(packet)

    def _count_side_data(self, packet: "av.Packet[AudioStream]") -> None:
        if packet.has_sidedata("skip_samples"):
            start, end = _SKIP_SAMPLES.unpack_from(bytes(packet.get_sidedata("skip_samples")))
            self._dropped += start + end
            self.is_regular = self.is_regular and not (start and self.packets)
            self.skip, self.trim = self.skip or start, end
            # An M4A file has no field for samples that every player drops at the end.
            self.is_regular = self.is_regular and not (end and self._source.codec == "aac")
        if packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change"):
            self.is_regular = False

    def _count_length(self, packet: "av.Packet[AudioStream]") -> None:
        """Containers round durations, so the length of Opus and AAC packets is counted in samples."""
        codec, ticks = self._source.codec, packet.duration or 0
        if codec == "opus":
            samples = opus_packets.samples_of(memoryview(packet))
            self._samples += samples or 0
            self.is_regular = self.is_regular and samples is not None
        elif codec == "aac" and self._source.format == "matroska":
            self._samples += FRAME_SAMPLES
        elif not ticks:
            # Some containers name no duration for the last packet, or for any.
            self._samples += self._context.frame_size
        else:
            self._ticks += ticks
        self._last_ticks = ticks
        if packet.pts is not None:
            self._last_end = max(self._last_end, packet.pts + ticks)

    def _seconds_of(self, ticks: int) -> float:
        return float(ticks * (self._source.stream.time_base or 0))

    def _trim_by_duration(self) -> None:
        """MP4 shortens the last packet of AAC instead of saying how many samples to drop."""
        samples = round(self._seconds_of(self._last_ticks) * self._rate)
        if self._source.codec == "aac" and self._source.format == "mp4" and 0 < samples < FRAME_SAMPLES:
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
        if self._source.format == "mp4" and self._is_cut_off:
            return True
        length = max(self.seconds, self._seconds_of(self._last_end))
        return length < self._announced_seconds() - _MISSING_SECONDS

    def _announced_seconds(self) -> float:
        """Return where the headers say that the track ends, or 0 if they do not say it."""
        stream, container = self._source.stream, self._source.container
        is_known = self._source.format in _CONTAINERS_WITH_LENGTH
        # The header of an MP3 file that counts its frames also says how many samples to skip.
        is_known = is_known or (self._source.format == "mp3" and self.skip > 0)
        if is_known and stream.duration is not None:
            return self._seconds_of(stream.duration)
        # Matroska says how long the longest track is.
        if self._source.format == "matroska" and len(container.streams) == 1 and container.duration:
            return container.duration / av.time_base
        return 0.0
