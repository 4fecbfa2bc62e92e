"""The values that the domain works on; they depend on no driver and no wire format."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, field

from schemas.api_keys import Role
from schemas.destinations import Auth, Format, Payload
from schemas.medscribe import UploadType
from schemas.results import WarningInfo
from schemas.sessions import Mode, Model, SessionStatus, Upload
from schemas.tenants import TenantDefaults
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
    """The authenticated caller: its API key, its tenant, and the defaults for the tenant's sessions."""

    key_id: KeyId
    tenant_id: TenantId
    role: Role
    defaults: TenantDefaults
    account: Account


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
    """A session to create, with all defaults filled in."""

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
    """A session that the vendor has, with the address for its audio and the time of its expiry."""

    upload_url: str | None
    expires_at: datetime | None


class VendorEnd(Struct, frozen=True, kw_only=True):
    """The vendor's answer to an end: the number of its audio files, and their sequences if it names them."""

    files_received: int | None
    sequences: list[int] | None = None


class EndRecorded(Struct, frozen=True, kw_only=True):
    """A recorded end; `missing` holds the stored sequences that the vendor's list lacks.

    `missing` is empty if the vendor only counts fewer files, and None if no file is known to be missing.
    """

    was_ours: bool
    missing: list[int] | None = None


VendorState = Literal[
    "open", "processing", "completed", "partial", "failed", "expired", "missing", "no_document", "unknown"
]
# The meaning of an answer for a document that is no plain success (service/domain/results/verdicts.py).
Verdict = Literal["failed", "unexplained", "empty", "unknown", "absent"]
# `pending`: announced, but not made yet. `empty`: a success without content. `unknown`: a status that this
# service does not know.
VendorDocumentStatus = Literal["success", "failed", "pending", "empty", "unknown"]


class DocumentAnnotations(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The vendor's additional data about a document beside its content; stored encrypted.

    `vendor_code`: the vendor's own code for the reason of a failure. `fhir`: a FHIR resource of the document.
    """

    warnings: list[WarningInfo] = field(default_factory=list)
    vendor_code: str | None = None
    fhir: Any = UNSET


class VendorDocument(Struct, frozen=True, kw_only=True):
    """One document of an answer; `content_url` is the address of its content if `data` lacks it."""

    template_id: TemplateId
    upstream_id: str
    type: str | None
    status: VendorDocumentStatus
    data: Any
    annotations: DocumentAnnotations = DocumentAnnotations()
    content_url: str | None = None


class VendorResult(Struct, frozen=True, kw_only=True):
    """An answer of Get Session in our terms.

    `open`: not ended yet; `missing`: no such session; `no_document`: the filter matched no document;
    `unknown`: a status that this service does not know. `warnings`: the vendor's warnings about processing.
    `audio`: the files that the vendor lists, only from an answer without a filter. `held`: the memory that
    large values use, reserved until the garbage collector frees the result.
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
    """The fields of a session's locked row that its end needs."""

    account: Account
    status: str
    upload: Upload
    templates: list[str]
    pending_call: Literal["create", "end", "cancel"] | None
    pending_call_is_free: bool
    is_past: bool
    sequences: list[int]
    # Whether a stream got audio; None if the holder of an open stream has not reported yet.
    has_stream_audio: bool | None = False
    was_ended: bool = True
    is_erased: bool = False
    is_changing: bool = False


class PendingCall(Struct, frozen=True, kw_only=True):
    """A create, end or cancel call that is not finished: nobody knows whether the vendor got it."""

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
    """The fields of a session's locked row that a change, a cancel or an erasure needs."""

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
    """The fields of a finished session's locked row that a request for an additional document needs.

    `is_pending`: that document is on its way; `is_asking`: another call asks the vendor for it at this
    moment; `is_unclear`: a call asked for it, and nobody knows whether the vendor got that call. `known`: the
    vendor's ids of the template's documents that are here. `asked_until`: the time at which the last
    requested document was settled.
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
    """A leased Get Session call.

    `is_probe`: no caller ended the session, but the vendor hinted that it is over. `is_over`: the session has
    its final status already, and the call checks for new results. `was_announced`: a webhook announced
    results. `verdict`: the judgement of earlier answers, unchanged for `verdict_seconds`. `asked`: for an
    additional document, whether the vendor certainly got the request for it; `document_id` is its id at the
    vendor.
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
    """The state of one of a session's Get Session calls."""

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
    """A stored document for which no event exists yet."""

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
    """A leased delivery, with all data that its call needs."""

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
    is_probe: bool = False  # the destination's circuit breaker is open; this call tests whether it recovered
    traceparent: str | None = None  # of the session's create call


class Answer(Struct, frozen=True, kw_only=True):
    """A destination's answer; `excerpt` serves to find a record id or an error code and is never stored."""

    status_code: int
    retry_after_seconds: float | None
    location: str | None
    echoed_id: str | None
    excerpt: bytes
    size: int
    sha256: bytes
    duration_ms: int


class CallFailure(Struct, frozen=True, kw_only=True):
    """A call without an answer; `error_class` names the stage at which it failed.

    `is_refused`: the destination's OAuth 2.0 token endpoint refused our credentials. `is_withheld`: the
    sender sent nothing, because the last check before sending found the delivery settled. `is_ours`: this
    process had no free thread to resolve the name, so the failure says nothing about the destination.
    """

    error_class: str
    duration_ms: int
    is_forbidden: bool = False
    is_refused: bool = False
    is_withheld: bool = False
    is_ours: bool = False


class TokenState(Struct, frozen=True, kw_only=True):
    """An account's tokens as all replicas see them; `generation` grows with each login or refresh."""

    tokens: bytes | None
    generation: int
    is_leased: bool


class Received(Struct, frozen=True, kw_only=True):
    """The outcome of a webhook: its session's phase, whether it was new, how many fetches it made due."""

    phase: Literal["unknown", "early", "ended"]
    is_first: bool
    due: int


class StreamSession(Struct, frozen=True, kw_only=True):
    """The fields of a session that its stream needs; `vendor_url` is a secret capability of the vendor."""

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
