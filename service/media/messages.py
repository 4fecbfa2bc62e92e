"""The messages between this process and the child process that reads a recording.

The request goes to the child's standard input: it holds the file's key, and arguments and variables of a
process are visible to others. Each answer is a header of ANSWER_HEADER with two lengths, then a JSON
document, then the bytes of a chunk.
"""

import enum
import struct

from msgspec import Struct

ANSWER_HEADER = struct.Struct(">II")
MAX_DOCUMENT_BYTES = 4096


class Reason(enum.StrEnum):
    """Why a recording cannot be read; a closed list, so that nothing of the file gets into a message."""

    UNKNOWN_FORMAT = "unknown_format"
    DAMAGED = "damaged"
    TRUNCATED = "truncated"
    NO_AUDIO_TRACK = "no_audio_track"
    NO_SAMPLES = "no_samples"
    CODEC_UNSUPPORTED = "codec_unsupported"
    NOT_DECODABLE = "not_decodable"
    FORMAT_MISSING = "format_missing"
    MEMORY = "memory"
    TIME = "time"
    CRASHED = "crashed"


class Kind(enum.StrEnum):
    """The kinds of file that chunks are written as; each is the file extension of the vendor's formats."""

    WAV = "wav"
    OGG = "ogg"
    M4A = "m4a"


class Cut(Struct, frozen=True, kw_only=True):
    """The limits of a chunk, and the kinds of file that the vendor accepts."""

    max_seconds: float
    max_bytes: int
    kinds: tuple[Kind, ...]


class Request(Struct, frozen=True, kw_only=True):
    """The encrypted file to read and the limits of the process; `cut` is None to inspect the file only."""

    descriptor: int
    key: bytes
    nonce: bytes
    size: int
    memory_bytes: int
    cpu_seconds: int
    cut: Cut | None = None


class Facts(Struct, frozen=True, kw_only=True, tag=True):
    """The facts of the audio track: the whole answer to a request without `cut`."""

    seconds: float
    container: str
    codec: str
    sample_rate: int
    channels: int
    is_copyable: bool


class Chunk(Struct, frozen=True, kw_only=True, tag=True):
    """A chunk, whose bytes follow."""

    kind: Kind
    start_seconds: float
    seconds: float


class Done(Struct, frozen=True, tag=True):
    """No chunk follows."""


class Failed(Struct, frozen=True, tag=True):
    """The recording cannot be read."""

    reason: Reason


Answer = Facts | Chunk | Done | Failed


class Unreadable(Exception):
    """Raised inside the child process; the parent gets the reason alone."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
