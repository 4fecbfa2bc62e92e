"""Events that report a result or a final status to the EMR, stored in the transaction of their cause."""

from collections.abc import Sequence

from msgspec import UNSET

from schemas.events import Event, EventData, EventDocument, EventPatient, SessionEventType
from schemas.results import ErrorInfo, WarningInfo
from schemas.sessions import SessionStatus
from service.domain.clock import Clock
from service.domain.ids import TemplateId
from service.domain.results.models import StoredDocument, VendorDocument
from service.domain.results.ports import SettleUnit

MESSAGES = {
    "vendor_failed": "EkaScribe could not process this session",
    "vendor_session_missing": "EkaScribe does not know this session any more",
    "vendor_gave_no_result": "EkaScribe gave no result in time",
    "vendor_unavailable": "EkaScribe could not be reached for a day; the audio can still be exported",
    "vendor_error": "EkaScribe refused this session",
    "session_expired": "the session expired before it was ended",
    "template_failed": "EkaScribe could not make this document",
    "document_missing": "EkaScribe made no document of this template",
    "document_empty": "EkaScribe calls this document a success, but there is nothing in it",
    "document_undecided": "EkaScribe gives this document a status that ekabridge does not know",
    "value_unreadable": "what is stored of it cannot be decrypted; the log names the value",
}


async def settle(unit: SettleUnit, status: SessionStatus, code: str | None) -> None:
    """Set the session's final status."""
    await unit.settle_session(status, error_code=code, error_message=MESSAGES[code] if code else None)


async def release(unit: SettleUnit, clock: Clock) -> bool:
    """Emit an event for each document without one; return whether there was any."""
    unreleased = await unit.unreleased_documents()
    for document in unreleased:
        ready = document.status == "success"
        event = _event(unit, "document.ready" if ready else "document.failed", clock, document=document)
        await unit.emit(event, document.id, document.template_id)
    return bool(unreleased)


async def emit_ending(unit: SettleUnit, event_type: SessionEventType, code: str, clock: Clock) -> None:
    """Emit the event of a session that failed or expired."""
    error = ErrorInfo(code=code, message=MESSAGES[code])
    await unit.emit(_event(unit, event_type, clock, error=error), None, None)


def missing_document(template_id: TemplateId, upstream_id: str = "") -> VendorDocument:
    """Return a failed document that stands for a requested document that the vendor never made."""
    return VendorDocument(
        template_id=template_id, upstream_id=upstream_id, type=None, status="failed", data=None
    )


def document_error(code: str | None, vendor_code: str | None = None) -> ErrorInfo | None:
    """Return a document's error code with its message, and EkaScribe's own code for the reason."""
    if code is None:
        return None
    return ErrorInfo(code=code, message=MESSAGES[code], vendor_code=vendor_code or UNSET)


def session_warnings(stored: list[WarningInfo], audio_missing: Sequence[int] | None) -> list[WarningInfo]:
    """Return the warnings of a session or its document: the vendor's own, and one about missing chunks.

    `audio_missing` holds chunks that the vendor refused or does not list. It is empty if the vendor only
    counts fewer files than it had confirmed.
    """
    if audio_missing is None:
        return stored
    incomplete = WarningInfo(
        code="audio_incomplete",
        message="EkaScribe does not have every chunk of this session; the documents may have gaps",
        missing=list(audio_missing) or UNSET,
    )
    return [incomplete, *stored]


def _event(
    unit: SettleUnit,
    event_type: SessionEventType,
    clock: Clock,
    *,
    document: StoredDocument | None = None,
    error: ErrorInfo | None = None,
) -> Event:
    patient = unit.details.patient
    data = EventData(
        session_id=unit.session_id,
        reference=unit.details.reference,
        patient=EventPatient(id=patient.get("id")) if patient else None,
        metadata=unit.details.metadata,
        session_status=unit.status,
        transcript=unit.transcript,
        model_used=unit.model_used,
        language_detected=unit.language_detected,
        warnings=unit.warnings,
        document=_event_document(document) if document is not None else UNSET,
        error=error if error is not None else UNSET,
    )
    return Event(type=event_type, timestamp=clock.now(), data=data)


def _event_document(document: StoredDocument) -> EventDocument:
    return EventDocument(
        id=document.id,
        template_id=document.template_id,
        type=document.type,
        status=document.status,
        data=document.data,
        version=document.version,
        replaces=document.replaces or UNSET,
        error=document_error(document.error_code, document.annotations.vendor_code) or UNSET,
        warnings=document.annotations.warnings,
        fhir=document.annotations.fhir,
    )
