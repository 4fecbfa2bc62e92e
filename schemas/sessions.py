"""Sessions under /v1/sessions. Every time is UTC; every size is in bytes. Unknown fields are refused."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.recordings import RecordingState
from schemas.results import DocumentSummary, ErrorInfo, WarningInfo
from schemas.templates import Templates

SessionStatus = Literal[
    "created", "recording", "processing", "completed", "partial", "failed", "expired", "cancelled"
]


Mode = Literal["dictation", "consultation"]


Model = Literal["lite", "pro"]


# EkaScribe gets a `recording` in chunks, which ekabridge cuts itself.
Upload = Literal["chunked", "stream", "recording"]


Language = Annotated[str, Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$(?!\n)")]


SpokenLanguage = Annotated[str, Meta(pattern=r"^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*|auto_detect)$(?!\n)")]


Languages = Annotated[
    list[SpokenLanguage],
    Meta(
        max_length=10,
        description="Spoken languages, ISO 639-1; or `auto_detect`, where EkaScribe's server offers it",
        examples=[["en", "hi"]],
    ),
]


Patient = Annotated[
    dict[str, Any],
    Meta(
        description="`id` and `name` as text, and further fields that EkaScribe shall know",
        examples=[{"id": "PAT-12345", "name": "Asha Rao"}],
    ),
]


Reference = Annotated[
    str, Meta(min_length=1, max_length=256, description="The EMR's own encounter id", examples=["ENC-1"])
]


Metadata = Annotated[dict[str, Any], Meta(description="Anything, up to 4 KB; handed back with each document")]


class SessionCreate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The start of a dictation; absent fields come from the tenant's defaults."""

    templates: Templates | None = None
    mode: Mode | None = None
    model: Model | None = None
    languages: Languages | None = None
    transcript_language: Language | None = None
    upload: Upload = "chunked"
    patient: Patient | None = None
    reference: Reference | None = None
    metadata: Metadata | None = None


class RecordingCreate(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The session of a whole recording; absent fields come from the tenant's defaults."""

    templates: Templates | None = None
    mode: Mode | None = None
    model: Model | None = None
    languages: Languages | None = None
    transcript_language: Language | None = None
    patient: Patient | None = None
    reference: Reference | None = None
    metadata: Metadata | None = None


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


class SessionEnd(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The end of a dictation: the number of chunks sent, and whether missing chunks are accepted."""

    chunks: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    force: bool = False


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
    recording_url: str | UnsetType = UNSET
    recording: RecordingState | UnsetType = UNSET
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


class TimelineEntry(Struct, kw_only=True, frozen=True):
    """A step in a session's life; `data` carries ids, sizes and classes, never content."""

    at: datetime
    type: str
    data: dict[str, Any]
