"""Makes the response of Get Session from a session's rows; the state decides HTTP status and fields.

The responses follow EkaScribe's own (docs/vendor.md#status-codes, docs/vendor.md#expired-body).
"""

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from schemas.medscribe import FormUpload, ProcessingError, TemplateResult, VoiceError, VoiceSession
from service.domain.results.events import document_error
from service.domain.sessions.models import vendor_upload_of
from service.store.medscribe_queries import MedscribeDocument, MedscribeState

Status = Literal["initialized", "processing", "completed", "partial", "failed", "cancelled", "expired"]

_STATUS_OF: dict[str, Status] = {
    "created": "initialized",
    "recording": "initialized",
    "processing": "processing",
    "completed": "completed",
    "partial": "partial",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
_HTTP_STATUS_OF: dict[Status, int] = {
    "initialized": 202,
    "processing": 202,
    "completed": 200,
    "partial": 206,
    "failed": 200,
    "cancelled": 200,
    "expired": 410,
}


def format_timestamp(timestamp: datetime) -> str:
    """Format a timestamp as EkaScribe does: whole seconds, UTC, `Z` (docs/vendor.md#times)."""
    return timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_patient_details(patient: dict[str, Any] | None) -> dict[str, Any] | UnsetType:
    """Rename a patient's `id` to `oid`, its name in the protocol (docs/vendor.md#patient-oid)."""
    if not patient:
        return UNSET
    details = {name: value for name, value in patient.items() if name != "id"}
    return {"oid": patient["id"]} | details if "id" in patient else details


def count_files(state: MedscribeState) -> int:
    """Return the number of audio files; for a stream EkaScribe reports it at the end."""
    return (state.vendor_files or 0) if state.upload == "stream" else len(state.files)


def storage_provider_of(upload_url: str | FormUpload) -> str | UnsetType:
    """Return the name by which clients recognise that they must post forms, as EkaScribe sends it."""
    return UNSET if isinstance(upload_url, str) else "aws"


def to_response(
    state: MedscribeState,
    upload_url: str | FormUpload,
    documents: list[MedscribeDocument],
    *,
    is_pending: bool,
) -> tuple[int, VoiceSession]:
    """Return HTTP status and body; `is_pending` means that the requested document is not ready yet."""
    status: Status = "expired" if state.is_past else _STATUS_OF[state.status]
    if is_pending:
        status = "processing"
    patient = to_patient_details(state.details.patient)
    body = VoiceSession(
        session_id=state.id,
        status=status,
        created_at=format_timestamp(state.created_at),
        expires_at=format_timestamp(state.expires_at),
        upload_url=upload_url,
        storage_provider=storage_provider_of(upload_url),
        audio_files_received=count_files(state),
        audio_files=state.files,
        additional_data=state.details.metadata | {"_protocol": _protocol_metadata(state)},
        patient_details=patient,
        session_details=patient,
        **_fields_of_status(status, state, documents),
    )
    return _HTTP_STATUS_OF[status], body


def _protocol_metadata(state: MedscribeState) -> dict[str, Any]:
    """Return how the session was requested, as EkaScribe does (docs/vendor.md#protocol-metadata)."""
    protocol = state.details.protocol
    is_stream = state.upload == "stream"
    return {
        "version": "0.1",
        "upload_type": protocol.upload_type if protocol else vendor_upload_of(state.upload),
        "communication_protocol": protocol.communication_protocol
        if protocol
        else ("websocket" if is_stream else "http"),
        "requested_templates": state.templates,
    }


def _fields_of_status(
    status: Status, state: MedscribeState, documents: list[MedscribeDocument]
) -> dict[str, Any]:
    if status in {"initialized", "processing"}:
        return {"transcript": ""}
    if status == "expired":
        return {
            "expired_at": format_timestamp(state.settled_at or state.expires_at),
            "message": "Session expired before it was ended",
            "templates": [],
            "transcript": "",
        }
    if status in {"failed", "cancelled"}:
        return {"error": _to_error(state)}
    fields: dict[str, Any] = {
        "completed_at": format_timestamp(state.settled_at) if state.settled_at else UNSET,
        "model_used": state.model_used or UNSET,
        "language_detected": state.language_detected or UNSET,
        "transcript": state.transcript or "",
        "templates": [{document.template_id: _to_template_result(document)} for document in documents],
    }
    if status == "partial":
        errors = [_to_processing_error(document) for document in documents if document.error_code]
        fields["audio_files_processed"] = count_files(state)
        fields["processing_errors"] = errors or UNSET
    return fields


def _to_error(state: MedscribeState) -> VoiceError | UnsetType:
    if state.error_code is None:
        return UNSET
    return VoiceError(code=state.error_code, message=state.error_message or "")


def _to_template_result(document: MedscribeDocument) -> TemplateResult:
    error = document_error(document.error_code)
    return TemplateResult(
        status="success" if document.status == "success" else "failed",
        document_id=document.upstream_id or UNSET,
        document_type=document.type or UNSET,
        data=UNSET if document.data is None else document.data,
        error=VoiceError(code=error.code, message=error.message) if error else UNSET,
    )


def _to_processing_error(document: MedscribeDocument) -> ProcessingError:
    error = document_error(document.error_code)
    assert error is not None  # noqa: S101 - callers pass only documents with an error code
    return ProcessingError(type=error.code, message=error.message, template_id=document.template_id)
