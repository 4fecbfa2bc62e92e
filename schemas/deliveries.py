"""What the EMR's own endpoint receives (contract, "For the EMR's own endpoint")."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from schemas.emr import ErrorInfo, EventType


class EventDocument(Struct, kw_only=True, frozen=True):
    """The document inside an event."""

    id: str
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    version: int
    error: ErrorInfo | UnsetType = UNSET


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
    document: EventDocument | UnsetType = UNSET
    error: ErrorInfo | UnsetType = UNSET


class Event(Struct, kw_only=True, frozen=True):
    """One event; its bytes are frozen when it happens and are the same in every attempt."""

    type: EventType
    timestamp: datetime
    data: EventData
