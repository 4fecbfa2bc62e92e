"""Get Session's bodies, in the seeds' style ("hosted") and the on-prem server's."""

from __future__ import annotations

from typing import Any

from service.sandbox.answers import transaction_error
from service.sandbox.settings import VendorSettings
from service.sandbox.vendor_state import TERMINAL, Document, Session, timestamp

TRANSCRIPT_FILTER = "transcript"


def view_patient(settings: VendorSettings, session: Session) -> dict[str, Any]:
    """`patient_details` when there are any (seeds), or `session_details`, null without (recordings)."""
    if settings.style == "onprem":
        return {"session_details": session.patient}
    return {} if session.patient is None else {"patient_details": session.patient}


def list_audio(settings: VendorSettings, session: Session, *, ordered: bool = False) -> list[str]:
    """List stored names: by arrival before the end, by sequence after it (on-prem: as URLs)."""
    names = [chunk.name for chunk in session.chunks.values()]
    if ordered or session.committed:
        names = [chunk.name for chunk in session.ordered_chunks()]
    if settings.style == "onprem" and session.committed:
        day = timestamp(session.created_at)[2:10].replace("-", "")
        return [f"s3://voice-records/{day}/{session.session_id}/{name}" for name in names]
    return names


def view_session(
    settings: VendorSettings, session: Session, template_id: str | None, document_id: str | None
) -> tuple[int, dict[str, Any]]:
    """Status and body of Get Session; raises `VendorError` 404 for a filter that hits nothing."""
    if session.is_expired():
        if settings.answer_410:
            return 410, _view_expired(settings, session)
        return 202, _view_pending(settings, session)
    if session.status in {"failed", "cancelled"}:
        return 200, {**_view_common(settings, session), "upload_url": session.upload_url}
    if session.status not in TERMINAL:
        return 202, _view_pending(settings, session)
    documents = _choose_documents(session, template_id, document_id)
    if (template_id or document_id) and any(each.status == "pending" for each in documents):
        return 202, _view_pending(settings, session, status="processing")
    filtered = document_id is not None or template_id not in {None, TRANSCRIPT_FILTER}
    return _view_results(settings, session, documents, filtered=filtered)


def _choose_documents(session: Session, template_id: str | None, document_id: str | None) -> list[Document]:
    if document_id is not None:
        found = [each for each in session.documents if each.document_id == document_id]
        wanted = f"document '{document_id}'"
    elif template_id == TRANSCRIPT_FILTER:
        return []
    else:
        current = [each for each in session.documents if each.current]
        if template_id is None:
            return [each for each in current if each.status != "pending"]
        found = [each for each in current if each.template_id == template_id]
        wanted = f"template '{template_id}'"
    if not found:
        message = f"No document found for {wanted}"
        raise transaction_error(404, "resource_not_found", message, session.session_id)
    return found


def _view_common(settings: VendorSettings, session: Session) -> dict[str, Any]:
    files = list_audio(settings, session)
    view: dict[str, Any] = {
        "session_id": session.session_id,
        "status": session.status,
        "created_at": timestamp(session.created_at),
        "audio_files_received": len(files),
        "audio_files": files,
        "additional_data": session.additional_data,
        **view_patient(settings, session),
    }
    if settings.style == "hosted":
        view |= {"expires_at": timestamp(session.expires_at), "upload_url": session.upload_url}
    return view


def _view_pending(settings: VendorSettings, session: Session, status: str | None = None) -> dict[str, Any]:
    expires_at = timestamp(session.expires_at)
    if settings.style == "onprem":
        expires_at = expires_at.replace("Z", "+00:00")
    return {
        **_view_common(settings, session),
        "status": status or ("initialized" if session.status == "expired" else session.status),
        "upload_url": session.upload_url,
        "expires_at": expires_at,
        "transcript": "",
    }


def _view_expired(settings: VendorSettings, session: Session) -> dict[str, Any]:
    return {
        **_view_common(settings, session),
        "status": "expired",
        "expired_at": timestamp(session.completed_at or session.expires_at),
        "message": "Session expired before processing was initiated.",
        "templates": [],
        "transcript": "",
    }


def _view_results(
    settings: VendorSettings, session: Session, documents: list[Document], *, filtered: bool
) -> tuple[int, dict[str, Any]]:
    hides_time = settings.completed_at_null_first and not session.completed_shown
    session.completed_shown = True
    hides_transcript = filtered and not settings.filtered_answers_carry_transcript
    view = {
        **_view_common(settings, session),
        "completed_at": None if hides_time else timestamp(session.completed_at or session.created_at),
        "model_used": session.model,
        "transcript": "" if hides_transcript else session.transcript,
        "templates": [{each.template_id: _view_document(settings, each)} for each in documents],
    }
    if session.status == "completed" or settings.style == "hosted":
        view["language_detected"] = session.languages[0] if session.languages else "en"
    if session.status == "completed":
        return 200, view
    view |= {
        "upload_url": session.upload_url,
        "audio_files_processed": len(session.chunks),
        "processing_errors": _view_errors(settings, session),
    }
    return 206, view


def _view_document(settings: VendorSettings, document: Document) -> dict[str, Any]:
    failed = document.status == "failed"
    view: dict[str, Any] = {
        "status": document.status,
        "document_id": document.document_id,
        "document_type": document.template_id,
        "data": document.data,
        "publish": {},
    }
    if settings.style == "onprem":
        view |= {"errors": [], "warnings": [], "document_type": "custom"}
        view["status"] = "failure" if failed else document.status
    return view


def _view_errors(settings: VendorSettings, session: Session) -> list[dict[str, str]]:
    if settings.style == "onprem":
        return []
    return [
        {
            "code": "template_failed",
            "template_id": each.template_id,
            "message": f"Template '{each.template_id}' could not be extracted",
        }
        for each in session.documents
        if each.current and each.status == "failed"
    ]
