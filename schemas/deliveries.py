"""What the EMR's own endpoint receives (contract, "For the EMR's own endpoint")."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from schemas.emr import ErrorInfo, EventType, WarningInfo


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
    """Who the note is for: the EMR's own id, and nothing that it knows already."""

    id: str | None


class EventData(Struct, kw_only=True, frozen=True):
    """Which session, whose, and what came of it."""

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
    """Which destination is tested."""

    destination_id: str


class Ping(Struct, kw_only=True, frozen=True):
    """A test of a destination: no session, no document."""

    type: Literal["ping"]
    timestamp: datetime
    data: PingData


class Event(Struct, kw_only=True, frozen=True):
    """One event; its bytes are frozen when it happens and are the same in every attempt."""

    type: EventType
    timestamp: datetime
    data: EventData


class ReferenceDocument(Struct, kw_only=True, frozen=True):
    """A document without what is in it."""

    id: str
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    version: int
    replaces: str | UnsetType = UNSET


class ReferenceData(Struct, kw_only=True, frozen=True):
    """Which session and which document: our own ids, and where to read the rest with an API key.

    Nothing of the patient's, nor of the EMR's that may name one: no patient, no reference, no metadata.
    """

    session_id: str
    session_status: str
    document: ReferenceDocument | UnsetType = UNSET
    document_url: str | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET


class ReferenceEvent(Struct, kw_only=True, frozen=True):
    """An event as a destination with `payload: reference` gets it."""

    type: EventType
    timestamp: datetime
    data: ReferenceData
