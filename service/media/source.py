"""Opens a recording with FFmpeg: known formats and codecs only, and nothing outside of the file.

Playlists and session descriptions (HLS, concat, SDP) are formats that open other files and addresses, so
FFmpeg gets a list of the formats that it may recognise, and may open no protocol at all.
"""

import contextlib
import errno
from collections.abc import Iterator
from typing import IO, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from service.media.messages import Reason, Unreadable

_FORMATS = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "amr", "amrnb", "amrwb", "ogg", "asf"),
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"),
)
_PCM = (
    *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
    *("pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw"),
)
_DECODERS = (
    *_PCM,
    *("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "gsm", "gsm_ms"),
    *("opus", "vorbis", "flac", "alac", "mp3", "mp3float", "mp2", "mp2float", "aac", "ac3", "eac3"),
    *("amrnb", "amrwb", "wmav1", "wmav2", "wmapro", "wmavoice", "wmalossless"),
)
_OPTIONS = {
    "format_whitelist": ",".join(_FORMATS),
    "codec_whitelist": ",".join(_DECODERS),
    "protocol_whitelist": "none",
    "max_streams": "64",
}
# In a video FFmpeg jumps from one piece of audio to the next, and fills this buffer after each jump.
_BUFFER_BYTES = 64 * 1024
# The first bytes of the formats: a file that has them and cannot be opened is damaged.
_SIGNATURES = (
    *(
        (0, b"RIFF"),
        (0, b"RF64"),
        (0, b"riff"),
        (0, b"FORM"),
        (0, b".snd"),
        (0, b"caff"),
        (0, b"fLaC"),
        (0, b"ID3"),
    ),
    *((0, b"#!AMR"), (0, b"OggS"), (0, bytes.fromhex("3026b275")), (0, bytes.fromhex("1a45dfa3"))),
    *((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (4, b"wide"), (4, b"free"), (4, b"skip")),
)
_SIGNATURE_BYTES = 16


class Source:
    """An open recording and its audio track; the other tracks are not read."""

    def __init__(self, container: InputContainer, stream: AudioStream, file: IO[bytes]) -> None:
        self.container = container
        self.stream = stream
        self.file = file

    @property
    def format(self) -> str:
        """FFmpeg's name of the container; one name for all relatives of MP4, and of Matroska."""
        name = self.container.format.name
        return {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}.get(name, name)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.stream.codec_context.codec.canonical_name

    def packets(self) -> "Iterator[av.Packet[AudioStream]]":
        """Yield the packets of the track that hold data."""
        with translated_errors(Reason.DAMAGED):
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet


@contextlib.contextmanager
def open_source(file: IO[bytes]) -> Iterator[Source]:
    """Open a recording from its start; raises Unreadable."""
    file.seek(0)
    signature = file.read(_SIGNATURE_BYTES)
    is_known = any(signature[at:].startswith(text) for at, text in _SIGNATURES)
    file.seek(0)
    with contextlib.ExitStack() as stack:
        with translated_errors(Reason.DAMAGED if is_known else Reason.UNKNOWN_FORMAT):
            opened = av.open(file, options=_OPTIONS, buffer_size=_BUFFER_BYTES)
        container = cast("InputContainer", stack.enter_context(opened))
        yield Source(container, _audio_stream(container), file)


def decode(stream: AudioStream, packet: "av.Packet[AudioStream] | None") -> list[av.AudioFrame] | None:
    """Decode a packet, or what the decoder still holds; None if the data is invalid."""
    try:
        return stream.codec_context.decode(packet)
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError from error
        return None


@contextlib.contextmanager
def translated_errors(reason: Reason) -> Iterator[None]:
    """Raise Unreadable for FFmpeg's errors, except for a lack of memory."""
    try:
        yield
    except (av.FFmpegError, ValueError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError from error
        raise Unreadable(reason) from error


def _audio_stream(container: InputContainer) -> AudioStream:
    streams = container.streams.audio
    if not streams:
        raise Unreadable(Reason.NO_AUDIO_TRACK)
    known = [stream for stream in streams if _is_decodable(stream)]
    if not known:
        raise Unreadable(Reason.CODEC_UNSUPPORTED)
    for stream in container.streams:
        if stream is not known[0]:
            stream.discard = Discard.all
    context = known[0].codec_context
    # A decoder with threads would reserve memory for each of them; the process has one core's work to do.
    context.thread_count = 1
    context.options = {"codec_whitelist": _OPTIONS["codec_whitelist"]}
    return known[0]


def _is_decodable(stream: AudioStream) -> bool:
    context = cast("av.AudioCodecContext | None", stream.codec_context)
    return context is not None and context.codec.name in _DECODERS
