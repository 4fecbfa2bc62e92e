"""Values of audio uploads."""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from schemas.audio import ChunkState
from schemas.sessions import Upload
from service.domain.ids import Account, Lease, SessionId, TenantId, VendorSessionId


class Audio(Protocol):
    """A chunk's buffered bytes, which can be read more than once."""

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, hexadecimal."""
        ...

    def read(self) -> AsyncIterator[bytes]:
        """Read the bytes from the start, in pieces."""
        ...


class AudioFormat(Struct, frozen=True):
    """An audio format in the vendor's spelling, with its file extension."""

    media_type: str
    extension: str


class ChunkPlan(Struct, frozen=True, kw_only=True):
    """A chunk to send to the vendor; `sha256` is hexadecimal."""

    tenant_id: TenantId
    session_id: SessionId
    sequence: int
    sha256: str
    size: int
    content_type: str
    file_name: str
    lease: Lease
    lease_seconds: float


class ChunkClaim(Struct, frozen=True, kw_only=True):
    """The outcome of a try to reserve a sequence: its lease, or None, and the chunk stored there before."""

    vendor_id: VendorSessionId
    account: Account
    session_status: str
    upload: Upload
    is_created: bool
    # Other audio or the create call of this session is held, so that this chunk waits behind it.
    is_held: bool
    # The chunk's bytes are kept here although the vendor has confirmed them.
    keeps_audio: bool
    is_past: bool
    is_erased: bool
    lease: Lease | None
    stored_sha256: str | None
    stored_bytes: int | None
    stored_file_name: str | None
    # The state of an earlier chunk with this sequence; None while it is being sent.
    state: ChunkState | None

    @property
    def is_stored(self) -> bool:
        """Whether the sequence has a chunk that was confirmed to the client."""
        return self.state is not None


class HeldChunk(Struct, frozen=True, kw_only=True):
    """A chunk that ekabridge holds for the vendor; `sha256` is hexadecimal."""

    session_id: SessionId
    sequence: int
    sha256: str
    size: int
    audio_format: AudioFormat
    file_name: str
