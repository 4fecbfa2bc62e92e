"""Requests and responses of /v1 (contract, "For EMR backends").

Every time is UTC; every size is in bytes. Unknown fields in a request are refused.
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

T = TypeVar("T")

SessionStatus = Literal[
    "created", "recording", "processing", "completed", "partial", "failed", "expired", "cancelled"
]
DeliveryStatus = Literal["pending", "delivered", "filed", "dead", "paused"]
EventType = Literal["document.ready", "document.failed", "session.failed", "session.expired", "ping"]
Mode = Literal["dictation", "consultation"]
Model = Literal["lite", "pro"]
Upload = Literal["chunked", "stream"]
Role = Literal["emr", "admin"]

# `$` alone would accept a final newline.
TemplateName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$(?!\n)")]
Language = Annotated[str, Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$(?!\n)")]
SpokenLanguage = Annotated[str, Meta(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*|auto_detect)$(?!\n)")]
Templates = Annotated[
    list[TemplateName],
    Meta(
        min_length=1,
        max_length=2,
        description="Ids of the templates to extract",
        examples=[["eka_emr_template"]],
    ),
]
Languages = Annotated[
    list[SpokenLanguage],
    Meta(
        max_length=10,
        description="Spoken languages, ISO 639-1; or `auto_detect`, where EkaScribe's server offers it",
        examples=[["en", "hi"]],
    ),
]


class SessionCreate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The start of a dictation; absent fields come from the tenant's defaults."""

    templates: Templates | None = None
    mode: Mode | None = None
    model: Model | None = None
    languages: Languages | None = None
    transcript_language: Language | None = None
    upload: Upload = "chunked"
    patient: (
        Annotated[
            dict[str, Any],
            Meta(
                description="`id` and `name` as text, and further fields that EkaScribe shall know",
                examples=[{"id": "PAT-12345", "name": "Asha Rao"}],
            ),
        ]
        | None
    ) = None
    reference: (
        Annotated[
            str,
            Meta(min_length=1, max_length=256, description="The EMR's own encounter id", examples=["ENC-1"]),
        ]
        | None
    ) = None
    metadata: (
        Annotated[dict[str, Any], Meta(description="Anything, up to 4 KB; handed back with each document")]
        | None
    ) = None


class SessionChange(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Changes of a session that has not ended; a given field replaces the old value as a whole."""

    templates: Templates | None = None
    languages: Languages | None = None
    patient: (
        Annotated[
            dict[str, Any],
            Meta(
                description="The whole new object; nothing of the old one stays",
                examples=[{"id": "PAT-12345", "name": "Asha Rao"}],
            ),
        ]
        | None
    ) = None
    mode: Mode | None = None
    model: Model | None = None


class DocumentRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Another template of a finished session."""

    template_id: Annotated[
        TemplateName, Meta(description="The template's id", examples=["clinical_notes_template"])
    ]


class SessionEnd(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The end of a dictation: the number of chunks sent, and whether missing chunks are accepted."""

    chunks: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    force: bool = False


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """The reason of a failure: a stable code of ekabridge and a sentence.

    `vendor_code` is EkaScribe's own code, if EkaScribe gave one.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET


class WarningInfo(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A fact that a reader of a session or document should know, although nothing failed.

    `code` is a stable code of ekabridge. `vendor_code` and `message` come from EkaScribe if it gave the
    warning. `missing` comes with `audio_incomplete`: the sequences of the chunks that EkaScribe does not
    list.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET
    missing: list[int] | UnsetType = UNSET


class DocumentSummary(Struct, kw_only=True, frozen=True):
    """A document in the list of its session, without content."""

    id: str
    template_id: str
    status: Literal["success", "failed"]
    type: str | None
    received_at: datetime


class Document(Struct, kw_only=True, frozen=True):
    """A structured note that EkaScribe made from one template."""

    id: str
    session_id: str
    reference: str | None
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    error: ErrorInfo | None
    warnings: list[WarningInfo]
    fhir: Any = UNSET
    version: int
    upstream_id: str
    received_at: datetime


class DeliveryCounts(Struct, frozen=True):
    """The number of a session's deliveries by status; paused ones count as pending."""

    pending: int = 0
    delivered: int = 0
    dead: int = 0


class Session(Struct, kw_only=True, frozen=True):
    """One dictation, from its start to its documents."""

    id: str
    status: SessionStatus
    upload: Upload
    templates: list[str]
    mode: Mode
    model: Model
    languages: list[str]
    transcript_language: str | None
    patient: dict[str, Any] | None
    reference: str | None
    metadata: dict[str, Any]
    audio_url: str | UnsetType = UNSET
    stream_url: str | UnsetType = UNSET
    chunks_received: int
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    completed_at: datetime | None
    transcript: str | None
    model_used: str | None
    language_detected: str | None
    documents: list[DocumentSummary]
    deliveries: DeliveryCounts
    error: ErrorInfo | None
    warnings: list[WarningInfo]


class SessionErasure(Struct, kw_only=True, frozen=True):
    """The only facts kept of an erased session: its id and its last status."""

    id: str
    status: SessionStatus


class ChunkStored(Struct, kw_only=True, frozen=True):
    """A chunk that EkaScribe holds and that is recorded."""

    sequence: int
    bytes: int
    sha256: str
    file_name: str


class TimelineEntry(Struct, kw_only=True, frozen=True):
    """A step in a session's life; `data` carries ids, sizes and classes, never content."""

    at: datetime
    type: str
    data: dict[str, Any]


class Page(Struct, Generic[T], kw_only=True, frozen=True):
    """One page of a list, newest first; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = None


class TenantDefaults(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Values for the fields that a create call leaves out."""

    templates: Templates | None = None
    mode: Mode = "dictation"
    model: Model = "pro"
    languages: Languages = field(default_factory=lambda: ["en"])
    transcript_language: Language | None = None


class Tenant(Struct, kw_only=True, frozen=True):
    """A hospital, or a product of an EMR vendor; `own_account`: it has its own account at EkaScribe.

    Content and rows are kept for the given number of days after a session ends; null keeps them for ever.
    """

    id: str
    name: str
    defaults: TenantDefaults
    own_account: bool
    keep_content_days: int | None
    keep_metadata_days: int | None
    created_at: datetime


class ApiKey(Struct, kw_only=True, frozen=True):
    """An API key's record; `key` itself is only in the response that created it."""

    id: str
    tenant_id: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None
    key: str | UnsetType = UNSET


class Attempt(Struct, kw_only=True, frozen=True):
    """One call to a destination, and its outcome."""

    at: datetime
    status_code: int | None
    error_class: str | None
    duration_ms: int


class Delivery(Struct, kw_only=True, frozen=True):
    """One event for one destination; `id` is the `webhook-id` header that the EMR receives."""

    id: str
    session_id: str | None
    document_id: str | None
    destination_id: str
    type: EventType
    status: DeliveryStatus
    attempts: int | list[Attempt]
    next_attempt_at: datetime | None
    reason: str | None
    record_id: str | None
    created_at: datetime


class DeliveryConfirm(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The EMR's confirmation that it filed a delivery, with its own id of the note."""

    record_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._:-]{1,128}$(?!\n)",
            description="The EMR's own id of the note: letters, digits and `._:-`; nothing of the patient's",
            examples=["NOTE-4711"],
        ),
    ]


class RecoverRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The time from which deliveries to a destination shall be recovered."""

    since: Annotated[
        datetime, Meta(tz=True, description="With a time zone", examples=["2026-11-20T00:00:00Z"])
    ]


class Recovered(Struct, kw_only=True, frozen=True):
    """The number of dead deliveries that are due again, and of deliveries made for events never sent."""

    recovered: int
    replayed: int
