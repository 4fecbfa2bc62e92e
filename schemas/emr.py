"""What an EMR backend sends and receives under /v1 (contract, "For EMR backends").

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

# `$` alone would let a final newline pass.
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
    """The start of a dictation; what is left out comes from the tenant's defaults."""

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
                description="`id` and `name` as text, and whatever else the EMR wants EkaScribe to know",
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
    """What shall change of a session that has not ended; what is given replaces the old value as a whole."""

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
    """The end of a dictation: how many chunks were sent, and whether holes are accepted."""

    chunks: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    force: bool = False


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """Why something ended badly: a stable code of ours and a sentence.

    `vendor_code` is EkaScribe's own code for the reason, where it gave one.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET


class WarningInfo(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Something that a reader of a session or a document should know, although it did not fail.

    `code` is ours and stable. `vendor_code` and `message` are EkaScribe's own where it gave the warning.
    `missing`: with `audio_incomplete`, the sequences of the chunks that EkaScribe does not list.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET
    missing: list[int] | UnsetType = UNSET


class DocumentSummary(Struct, kw_only=True, frozen=True):
    """A document as it stands in its session."""

    id: str
    template_id: str
    status: Literal["success", "failed"]
    type: str | None
    received_at: datetime


class Document(Struct, kw_only=True, frozen=True):
    """A structured note that EkaScribe made of one template."""

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
    """How many deliveries of a session stand where; paused ones count as pending."""

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
    """All that is left to say of a session: its id and how it had ended."""

    id: str
    status: SessionStatus


class ChunkStored(Struct, kw_only=True, frozen=True):
    """EkaScribe has the chunk, and we have its row."""

    sequence: int
    bytes: int
    sha256: str
    file_name: str


class TimelineEntry(Struct, kw_only=True, frozen=True):
    """One thing that happened to a session; `data` carries its ids, sizes and classes, never content."""

    at: datetime
    type: str
    data: dict[str, Any]


class Page(Struct, Generic[T], kw_only=True, frozen=True):
    """One page of a list, newest first; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = None


class TenantDefaults(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What fills the fields that a create call leaves out."""

    templates: Templates | None = None
    mode: Mode = "dictation"
    model: Model = "pro"
    languages: Languages = field(default_factory=lambda: ["en"])
    transcript_language: Language | None = None


class Tenant(Struct, kw_only=True, frozen=True):
    """One hospital, or one product of an EMR vendor; `own_account`: at EkaScribe, too.

    Content and rows are kept for so many days after a session's ending; null: for ever.
    """

    id: str
    name: str
    defaults: TenantDefaults
    own_account: bool
    keep_content_days: int | None
    keep_metadata_days: int | None
    created_at: datetime


class ApiKey(Struct, kw_only=True, frozen=True):
    """A key's record; `key` itself is there once, in the answer that made it."""

    id: str
    tenant_id: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None
    key: str | UnsetType = UNSET


class Attempt(Struct, kw_only=True, frozen=True):
    """One call to a destination and how it went."""

    at: datetime
    status_code: int | None
    error_class: str | None
    duration_ms: int


class Delivery(Struct, kw_only=True, frozen=True):
    """One event on its way to one destination; `id` is the webhook-id that the EMR sees."""

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
    """The EMR's word that it filed a delivery, and its own id of the note."""

    record_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._:-]{1,128}$(?!\n)",
            description="The EMR's own id of the note: letters, digits and `._:-`; nothing of the patient's",
            examples=["NOTE-4711"],
        ),
    ]


class RecoverRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """From when on deliveries to a destination shall be put right."""

    since: Annotated[
        datetime, Meta(tz=True, description="With a time zone", examples=["2026-11-20T00:00:00Z"])
    ]


class Recovered(Struct, kw_only=True, frozen=True):
    """How many dead deliveries are due again, and how many were made that had never been attempted."""

    recovered: int
    replayed: int
