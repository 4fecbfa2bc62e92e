"""The events that ekabridge posts to an EMR's own endpoint (contract, "For the EMR's own endpoint")."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from schemas.results import ErrorInfo, WarningInfo

# The events of sessions, which are also the ones that a destination can choose.
SessionEventType = Literal["document.ready", "document.failed", "session.failed", "session.expired"]
EventType = Literal[SessionEventType, "ping"]


class EventDocument(Struct, kw_only=True, frozen=True):
    """The document inside an event; `replaces` is the id of its version before this one."""

    id: str
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    version: int
    replaces: str | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET
    warnings: list[WarningInfo] = field(default_factory=list)
    fhir: Any = UNSET


class EventPatient(Struct, kw_only=True, frozen=True):
    """The patient of a note: only the EMR's own id, since the EMR knows the rest."""

    id: str | None


class EventData(Struct, kw_only=True, frozen=True):
    """The session of an event, and the document or error that it ended with."""

    session_id: str
    reference: str | None
    patient: EventPatient | None
    metadata: dict[str, Any]
    session_status: str
    transcript: str | None
    model_used: str | None = None
    language_detected: str | None = None
    document: EventDocument | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET
    warnings: list[WarningInfo] = field(default_factory=list)


class PingData(Struct, kw_only=True, frozen=True):
    """The destination that a ping tests."""

    destination_id: str


class Ping(Struct, kw_only=True, frozen=True):
    """A test of a destination, without a session or a document."""

    type: Literal["ping"]
    timestamp: datetime
    data: PingData


class Event(Struct, kw_only=True, frozen=True):
    """One event; its bytes are stored when it happens, and every attempt sends the same bytes."""

    type: SessionEventType
    timestamp: datetime
    data: EventData


class ReferenceDocument(Struct, kw_only=True, frozen=True):
    """A document without its content."""

    id: str
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    version: int
    replaces: str | UnsetType = UNSET


class ReferenceData(Struct, kw_only=True, frozen=True):
    """The ids of a session and its document, and the URL where an API key reads the content.

    It carries no patient, reference or metadata, because each of these may identify a patient.
    """

    session_id: str
    session_status: str
    document: ReferenceDocument | UnsetType = UNSET
    document_url: str | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET


class ReferenceEvent(Struct, kw_only=True, frozen=True):
    """An event for a destination with `payload: reference`."""

    type: SessionEventType
    timestamp: datetime
    data: ReferenceData
