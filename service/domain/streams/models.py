"""Values of live streams."""

from msgspec import Struct

from schemas.sessions import Upload
from service.domain.ids import Account, Lease, SessionId, TenantId, VendorSessionId


class HoldFull(Exception):
    """No more audio of this stream can be kept until the vendor takes it."""


class StreamSession(Struct, frozen=True, kw_only=True):
    """The fields of a session that its stream needs; `vendor_url` is a secret capability of the vendor."""

    id: SessionId
    vendor_id: VendorSessionId
    tenant_id: TenantId
    account: Account
    status: str
    upload: Upload
    is_created: bool
    is_erased: bool
    is_past: bool
    # Whether the tenant wants audio kept until the result is there.
    keeps_audio: bool = False
    vendor_url: str | None


class StreamState(Struct, frozen=True, kw_only=True):
    """The state of an open stream: the lease's holder, whether another connection wants it, the session."""

    session_id: SessionId
    lease: Lease | None
    is_yielding: bool
    status: str
    is_erased: bool


class StreamHeartbeat(Struct, frozen=True, kw_only=True):
    """The progress of an open connection, and whether its client was active since the last heartbeat."""

    session_id: SessionId
    lease: Lease
    was_active: bool
    frames: int
    bytes: int


class StreamEnd(Struct, frozen=True, kw_only=True):
    """A connection's end: its cause, the close code for the client, and the data that the vendor accepted."""

    cause: str
    code: int | None
    frames: int
    bytes: int
