"""Values of whole recordings: the encrypted file, the facts of its audio, the chunks that it is cut into."""

from typing import Protocol

from msgspec import Struct

from schemas.sessions import Model
from service.domain.audio.models import Audio, AudioFormat
from service.domain.ids import SessionId, TenantId


class RecordingFile(Protocol):
    """A recording in a file that is encrypted with AES-256 in CTR mode (service/temporary_files/)."""

    @property
    def size(self) -> int:
        """The number of bytes of the recording."""
        ...

    @property
    def key(self) -> bytes:
        """The file's key of 32 bytes, which exists only in memory."""
        ...

    @property
    def nonce(self) -> bytes:
        """The counter block of the file's first 16 bytes."""
        ...

    def fileno(self) -> int:
        """Return the descriptor of the encrypted file."""
        ...


class ReceivedRecording(RecordingFile, Audio, Protocol):
    """A recording that a client has sent whole."""


class TemporaryRecording(RecordingFile, Protocol):
    """An encrypted file to which a recording is copied; each method raises OSError if the disk is full."""

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        ...

    def finish(self) -> None:
        """Flush what is written."""
        ...

    def close(self) -> None:
        """Delete the bytes."""
        ...


class RecordingFacts(Struct, frozen=True, kw_only=True):
    """The audio track of a recording, after its whole container was read.

    `container` and `codec` are FFmpeg's names, such as `ogg` and `opus`. `is_copyable`: its packets can be
    cut without re-encoding, if the vendor lists the format.
    """

    seconds: float
    container: str
    codec: str
    sample_rate: int
    channels: int
    is_copyable: bool


class StoredRecording(Struct, frozen=True, kw_only=True):
    """A recording whose bytes PostgreSQL keeps."""

    session_id: SessionId
    tenant_id: TenantId
    size: int
    model: Model
    seconds: float | None  # None: not inspected yet


class CutLimits(Struct, frozen=True, kw_only=True):
    """The vendor's limits of one chunk, and the formats that it lists, in its spelling.

    `service/eka/audio_formats.py` makes an AudioFormat of each name in the discovery document
    (docs/vendor.md#chunk-limits, docs/vendor.md#audio-formats).
    """

    max_seconds: float
    max_bytes: int
    formats: tuple[AudioFormat, ...]


class CutChunk(Struct, frozen=True, kw_only=True):
    """One chunk: a file that plays by itself. Sequences count from 0.

    `start_seconds` is its place in the recording and `seconds` its new audio. The file may begin with up to
    half a second more, which its header tells players to skip: a decoder needs it to start exactly.
    """

    sequence: int
    start_seconds: float
    seconds: float
    format: AudioFormat
    data: bytes
