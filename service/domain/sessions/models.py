"""Values of sessions: plans, pending calls, and the states that a change or an end meets."""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct, field

from schemas.medscribe import UploadType
from schemas.sessions import Mode, Model, SessionStatus, Upload
from service.domain.ids import Account, Lease, SessionId, TenantId, VendorSessionId

# `audio` stands for the handover of held audio, which makes one upload for each chunk.
CallName = Literal["create", "audio", "end", "cancel"]


class ProtocolWords(Struct, frozen=True, kw_only=True):
    """Fields that a client of the protocol sends at create and gets back at each get; no rule uses them."""

    upload_type: UploadType
    communication_protocol: str


class SessionDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The data that identifies a patient or an encounter; stored encrypted."""

    patient: dict[str, Any] | None = None
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    protocol: ProtocolWords | None = None


class SessionPlan(Struct, frozen=True, kw_only=True):
    """A session to create, with all defaults filled in; `vendor_id` is its id at the vendor."""

    id: SessionId
    vendor_id: VendorSessionId
    tenant_id: TenantId
    account: Account
    upload: Upload
    mode: Mode
    model: Model
    templates: list[str]
    languages: list[str]
    transcript_language: str | None
    details: SessionDetails
    # Confirmed audio is kept for so many days after the ending, with 0 until a good ending; None: not at all.
    keep_audio_days: int | None = None


class VendorSession(Struct, frozen=True, kw_only=True):
    """A session that the vendor has, with the address for its audio and the time of its expiry."""

    upload_url: str | None
    expires_at: datetime | None


class VendorEnd(Struct, frozen=True, kw_only=True):
    """The vendor's answer to an end: the number of its audio files, and their sequences if it names them."""

    files_received: int | None
    sequences: list[int] | None = None


class EndRecorded(Struct, frozen=True, kw_only=True):
    """A recorded end; `missing` holds the sequences that the vendor refused, or that its list lacks.

    `missing` is empty if the vendor only counts fewer files, and None if no file is known to be missing.
    `may_be_remade`: nothing was recorded, because the session can perhaps be made again from kept audio.
    """

    was_ours: bool
    may_be_remade: bool = False
    missing: list[int] | None = None


class EndState(Struct, frozen=True, kw_only=True):
    """The fields of a session's locked row that its end needs."""

    vendor_id: VendorSessionId
    account: Account
    status: str
    upload: Upload
    templates: list[str]
    pending_call: CallName | None
    pending_call_is_free: bool
    # Audio or the create call is held until the vendor answers.
    is_held: bool
    is_past: bool
    sequences: list[int]
    # Whether a stream got audio; None if the holder of an open stream has not reported yet.
    has_stream_audio: bool | None = False
    was_ended: bool = True
    is_erased: bool = False
    is_changing: bool = False


class PendingCall(Struct, frozen=True, kw_only=True):
    """A call that is not finished: nobody knows whether the vendor got it, or it waits for the vendor."""

    session_id: SessionId
    vendor_id: VendorSessionId
    tenant_id: TenantId
    account: Account
    call: CallName
    lease: Lease
    attempts: int
    upload: Upload
    chunks: int
    # How long ekabridge has held audio or the create call; None if it holds nothing.
    held_seconds: float | None = None
    traceparent: str | None = None  # of the session's create call


class ChangeState(Struct, frozen=True, kw_only=True):
    """The fields of a session's locked row that a change, a cancel or an erasure needs."""

    vendor_id: VendorSessionId
    account: Account
    templates: list[str]
    upload: Upload
    model: Model
    languages: list[str]
    status: SessionStatus
    pending_call: CallName | None
    pending_call_is_free: bool
    is_past: bool
    is_erased: bool
    is_changing: bool
    is_final: bool
