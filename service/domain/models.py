"""What the rules work on: plain values, no driver, no wire."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, field

from schemas.destinations import Auth, Format, Payload
from schemas.emr import Mode, Model, Role, SessionStatus, TenantDefaults, Upload, WarningInfo
from schemas.voice import UploadType
from service.concurrency.memory_budget import MemoryReservation
from service.domain.ids import (
    Account,
    DeliveryId,
    DestinationId,
    DocumentId,
    KeyId,
    Lease,
    SessionId,
    TemplateId,
    TenantId,
)


class Principal(Struct, frozen=True, kw_only=True):
    """Who calls: a key, its tenant, and what the tenant's sessions start from."""

    key_id: KeyId
    tenant_id: TenantId
    role: Role
    defaults: TenantDefaults
    account: Account


class ProtocolWords(Struct, frozen=True, kw_only=True):
    """What a client of the protocol said at create and hears again at each get; no rule of ours needs it."""

    upload_type: UploadType
    communication_protocol: str


class SessionDetails(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What identifies a patient or an encounter; stored sealed."""

    patient: dict[str, Any] | None = None
    reference: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    protocol: ProtocolWords | None = None


class SessionPlan(Struct, frozen=True, kw_only=True):
    """A session as it shall be created, every default filled in."""

    id: SessionId
    tenant_id: TenantId
    account: Account
    upload: Upload
    mode: Mode
    model: Model
    templates: list[str]
    languages: list[str]
    transcript_language: str | None
    details: SessionDetails


class VendorSession(Struct, frozen=True, kw_only=True):
    """The vendor has the session: where its audio goes and until when."""

    upload_url: str | None
    expires_at: datetime | None


class VendorEnd(Struct, frozen=True, kw_only=True):
    """The vendor knows of the end: how many audio files it holds, and their numbers, where it said so."""

    files_received: int | None
    sequences: list[int] | None = None


class EndRecorded(Struct, frozen=True, kw_only=True):
    """An end that was recorded; `missing`: which stored sequences the vendor's list lacks.

    `missing` is empty when the vendor only counts fewer files, and None when nothing is known to be missing.
    """

    was_ours: bool
    missing: list[int] | None = None


VendorState = Literal[
    "open", "processing", "completed", "partial", "failed", "expired", "missing", "no_document", "unknown"
]
# An answer's judgement of one document that is no plain success (service/domain/results/verdicts.py).
Verdict = Literal["failed", "unexplained", "empty", "unknown", "absent"]
# `pending`: announced, not made yet. `empty`: called a success, with nothing in it. `unknown`: a status that
# is new on the vendor's wire.
VendorDocumentStatus = Literal["success", "failed", "pending", "empty", "unknown"]


class DocumentAnnotations(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the vendor says of a document beside its content; stored encrypted.

    `vendor_code`: the vendor's own code for why the document failed. `fhir`: a FHIR resource that came along.
    """

    warnings: list[WarningInfo] = field(default_factory=list)
    vendor_code: str | None = None
    fhir: Any = UNSET


class VendorDocument(Struct, frozen=True, kw_only=True):
    """One document of an answer; `content_url`: where its content is, if not in `data`."""

    template_id: TemplateId
    upstream_id: str
    type: str | None
    status: VendorDocumentStatus
    data: Any
    annotations: DocumentAnnotations = DocumentAnnotations()
    content_url: str | None = None


class VendorResult(Struct, frozen=True, kw_only=True):
    """What Get Session said, in our terms.

    `open`: not ended yet; `missing`: no such session; `no_document`: the filter hit nothing; `unknown`: a
    status that is new on the vendor's wire. `warnings`: what it says of the session's processing.
    `audio`: the files that it lists, read from an answer without a filter only. `held`: what large values
    take of the process' memory, until the result is forgotten.
    """

    state: VendorState
    transcript: str | None = None
    documents: list[VendorDocument] = field(default_factory=list)
    model_used: str | None = None
    language_detected: str | None = None
    upload_url: str | None = None
    expires_at: datetime | None = None
    warnings: list[WarningInfo] = field(default_factory=list)
    audio: VendorEnd | None = None
    held: tuple[MemoryReservation, ...] = ()


class AudioFormat(Struct, frozen=True):
    """A format as the vendor spells it, and the file extension it goes with."""

    media_type: str
    extension: str


class ChunkPlan(Struct, frozen=True, kw_only=True):
    """A chunk that is to be sent to the vendor; `sha256` is hexadecimal, the lease is for so many seconds."""

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
    """What became of the attempt to reserve a sequence, and what stood there before."""

    account: Account
    session_status: str
    upload: Upload
    is_created: bool
    is_past: bool
    is_erased: bool
    lease: Lease | None
    stored_sha256: str | None
    stored_bytes: int | None
    stored_file_name: str | None
    is_stored: bool


class EndState(Struct, frozen=True, kw_only=True):
    """A session's row as the end of it finds it, locked."""

    account: Account
    status: str
    upload: Upload
    templates: list[str]
    pending_call: Literal["create", "end", "cancel"] | None
    pending_call_is_free: bool
    is_past: bool
    sequences: list[int]
    # Of a stream that is open, what its holder has told so far; None: nothing yet.
    has_stream_audio: bool | None = False
    was_ended: bool = True
    is_erased: bool = False
    is_changing: bool = False


class PendingCall(Struct, frozen=True, kw_only=True):
    """A create, end or cancel call of which it is not known whether the vendor got it."""

    session_id: SessionId
    tenant_id: TenantId
    account: Account
    call: Literal["create", "end", "cancel"]
    lease: Lease
    attempts: int
    upload: Upload
    chunks: int
    traceparent: str | None = None  # of the session's create call


class ChangeState(Struct, frozen=True, kw_only=True):
    """A session's row as a change, a cancel or an erasure finds it, locked."""

    account: Account
    templates: list[str]
    upload: Upload
    model: Model
    languages: list[str]
    status: SessionStatus
    pending_call: Literal["create", "end", "cancel"] | None
    pending_call_is_free: bool
    is_past: bool
    is_erased: bool
    is_changing: bool
    is_final: bool


class AdditionalDocumentState(Struct, frozen=True, kw_only=True):
    """A finished session as the wish for a further document finds it, locked.

    `is_pending`: that document is on its way; `is_asking`: somebody asks the vendor for it at this moment;
    `is_unclear`: somebody asked, and it is not known whether the vendor heard. `known`: the vendor's ids of
    the template's documents that are here. `asked_until`: when the last document that the vendor was asked
    for was settled.
    """

    account: Account
    status: SessionStatus
    is_erased: bool
    is_pending: bool
    is_asking: bool
    is_unclear: bool
    document_id: str | None
    known: frozenset[str]
    asked_until: datetime | None = None


class FetchJob(Struct, frozen=True, kw_only=True):
    """A Get Session call that is ours to make until the lease ends.

    `is_probe`: nobody ended the session, the vendor hinted that it is over. `is_over`: the session has its
    final status already, and the call looks whether the vendor has more by now. `was_announced`: a webhook
    said that results are there. `verdict`: what earlier answers said of the document, for so many seconds.
    `asked`: for a further document, whether the vendor is known to have been asked for it; `document_id` is
    its vendor's id.
    """

    id: int
    lease: Lease
    tenant_id: TenantId
    session_id: SessionId
    template_id: TemplateId
    account: Account
    attempts: int
    missing: int  # how often in a row the vendor said that there is no such thing
    ended_seconds_ago: float
    is_probe: bool = False
    is_over: bool = False
    was_announced: bool = False
    verdict: Verdict | None = None
    verdict_seconds: float | None = None
    asked: Literal["asking", "asked"] | None = None
    document_id: str | None = None
    traceparent: str | None = None  # of the session's create call


class FetchState(Struct, frozen=True, kw_only=True):
    """One of a session's Get Session calls and how it stands."""

    template_id: TemplateId
    is_settled: bool
    was_answered: bool
    attempts: int
    is_further: bool = False
    reason: str | None = None  # of the last answer that did not settle it
    outcome: str | None = None
    verdict: Verdict | None = None
    verdict_seconds: float | None = None


class StoredDocument(Struct, frozen=True, kw_only=True):
    """A document that has its row and, so far, no event."""

    id: DocumentId
    template_id: TemplateId
    upstream_id: str
    version: int
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    error_code: str | None
    replaces: DocumentId | None = None
    annotations: DocumentAnnotations = DocumentAnnotations()


class DeliveryJob(Struct, frozen=True, kw_only=True):
    """A delivery that is ours to attempt until the lease ends, with all that the call needs."""

    id: DeliveryId
    lease: Lease
    tenant_id: TenantId
    session_id: SessionId | None
    destination_id: DestinationId
    type: str
    attempts: int
    scheduled: int
    body: bytes
    url: str
    headers: dict[str, str]
    secrets: list[str]  # newest first; more than one while a secret is rotated
    timeout_seconds: float | None
    payload: Payload = "full"
    format: Format = "ekabridge"
    auth: Auth | None = None
    failures: int = 0  # of calls to the destination in a row, when this one was claimed
    hangs: int = 0  # of them, how many took long
    claimed_at: float = 0.0  # on the monotonic clock
    is_probe: bool = False  # the destination's breaker is open: this one finds out whether it is well again
    traceparent: str | None = None  # of the session's create call


class Answer(Struct, frozen=True, kw_only=True):
    """What a destination answered. `excerpt` is read for a record id or an error code, never kept."""

    status_code: int
    retry_after_seconds: float | None
    location: str | None
    echoed_id: str | None
    excerpt: bytes
    size: int
    sha256: bytes
    duration_ms: int


class CallFailure(Struct, frozen=True, kw_only=True):
    """A destination that did not answer: at which stage it failed.

    `is_refused`: the token endpoint of its OAuth 2.0 did not take our credentials. `is_withheld`: nothing was
    sent, for at the last moment it was found that nothing was to be sent any more.
    """

    error_class: str
    duration_ms: int
    is_forbidden: bool = False
    is_refused: bool = False
    is_withheld: bool = False


class TokenState(Struct, frozen=True, kw_only=True):
    """An account's tokens as all replicas see them; `generation` grows with each login or refresh."""

    tokens: bytes | None
    generation: int
    is_leased: bool


class Received(Struct, frozen=True, kw_only=True):
    """What became of a webhook: its session's state, whether it was new, how many fetches it made due."""

    phase: Literal["unknown", "early", "ended"]
    is_first: bool
    due: int


class StreamSession(Struct, frozen=True, kw_only=True):
    """A session as its stream's door finds it; `vendor_url` is the vendor's capability, never shown."""

    id: SessionId
    tenant_id: TenantId
    account: Account
    status: str
    upload: Upload
    is_created: bool
    is_erased: bool
    is_past: bool
    vendor_url: str | None


class StreamState(Struct, frozen=True, kw_only=True):
    """How an open stream and its session stand: who holds it, whether another connection wants it."""

    session_id: SessionId
    lease: Lease | None
    is_yielding: bool
    status: str
    is_erased: bool


class StreamHeartbeat(Struct, frozen=True, kw_only=True):
    """How far an open connection has come, and whether its client sent anything since the last beat."""

    session_id: SessionId
    lease: Lease
    was_active: bool
    frames: int
    bytes: int


class StreamEnd(Struct, frozen=True, kw_only=True):
    """How a connection ended: what ended it, the close code its client got, what had reached the vendor."""

    cause: str
    code: int | None
    frames: int
    bytes: int
