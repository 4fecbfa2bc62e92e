"""Writes AAC packets as an M4A file, with an edit list that makes players skip the pre-roll."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
from av.audio.stream import AudioStream

from service.media.messages import Kind
from service.media.units import Unit

FRAME_SAMPLES = 1024
# A frame of AAC-LC overlaps with the one before it; one more does no harm.
_PREROLL_FRAMES = 2
_FIXED_BYTES = 2048
_BYTES_PER_PACKET = 16


class M4aWriter:
    """Writes chunks of one AAC track, whose decoder settings each chunk repeats."""

    kind = Kind.M4A
    preroll_samples = _PREROLL_FRAMES * FRAME_SAMPLES

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self.rate = stream.codec_context.sample_rate
        self.fixed_bytes = _FIXED_BYTES + stream.codec_context.extradata_size

    def unit_bytes(self, unit: Unit) -> int:
        """Return the packet's bytes and its entries in the tables of the file."""
        return len(unit.data) + _BYTES_PER_PACKET

    def write(self, units: Sequence[Unit], *, skip: int, trim: int) -> bytes:
        """Return the M4A file; the last packet's duration trims, as far as a player looks at it."""
        file = io.BytesIO()
        # Edit lists count in the movie's time scale, which is a thousandth of a second unless it is set.
        options = {"movie_timescale": str(self.rate)}
        with av.open(file, "w", format="ipod", container_options=options) as container:
            stream = container.add_stream_from_template(self._stream)
            stream.metadata.clear()
            stream.time_base = Fraction(1, self.rate)
            position = -skip
            for number, unit in enumerate(units, 1):
                packet = av.Packet(unit.data)
                packet.stream = stream
                packet.time_base = stream.time_base
                packet.pts = packet.dts = position
                packet.duration = unit.samples - (trim if number == len(units) else 0)
                packet.is_keyframe = True
                container.mux_one(packet)
                position += unit.samples
        return file.getvalue()
