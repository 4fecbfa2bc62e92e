"""PATCH of a session, End Session, and further documents by process/template."""

from __future__ import annotations

from typing import Any

from litestar import Response, patch, post
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.errors import StandInError, field_error, transaction_error, unexpected_error
from service.sandbox.vendor.processing import add_document, new_documents, start_processing
from service.sandbox.vendor.records import PENDING, TERMINAL, Session
from service.sandbox.vendor.requests import (
    VendorRequest,
    check_choice,
    check_strings,
    check_template_exists,
    read_object,
    usable_session,
    vendor_of,
)
from service.sandbox.vendor.response_parts import list_audio
from service.sandbox.vendor.responses import Viewer
from service.sandbox.vendor.sessions import MODELS, MODES
from service.sandbox.vendor.settings import VendorSettings
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.webhooks import announce_event

_USER_STATUSES = ("init", "recording_started", "commit", "stopped", "cancelled")
_CHANGEABLE = frozenset({
    "templates",
    "language_hint",
    "additional_data",
    "session_mode",
    "model",
    "user_status",
    "processing_status",
})  # fmt: skip
_FORMATS = ("html", "json", "markdown")
# The answer of the on-prem server of August to process/template, whatever token was sent
# (docs/vendor.md#no-uuid-claim).
_NO_UUID = {"detail": "JWT missing uuid claim"}


@patch("/voice/v1/sessions/{session_id:str}")
async def update_session(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Change or cancel a session (docs/vendor.md#patch, docs/vendor.md#cancel)."""
    vendor = vendor_of(request)
    body = await read_object(request)
    if not vendor.settings.is_hosted:
        _check_fields(vendor.settings, body)
    session = usable_session(vendor, session_id)
    if not body and not vendor.settings.is_hosted:
        raise transaction_error(400, "bad_request", "No fields supplied to update", session_id)
    if session.committed and ("session_mode" in body or "model" in body):
        message = "mode and model can only be updated before the session is committed"
        raise transaction_error(409, "session_already_committed", message, session_id)
    check_strings(body, "templates", most=2 if vendor.settings.is_hosted else None)
    check_strings(body, "language_hint")
    _check_hints(vendor.settings, session, body.get("language_hint") or [])
    _apply(vendor, session, body)
    announce_event(vendor, session, "scribe.session.update")
    answer = {"session_id": session_id, "status": "success", "message": "Session updated successfully"}
    return Response(answer, status_code=200)


def _check_fields(settings: VendorSettings, body: dict[str, Any]) -> None:
    for name in body:
        if name not in _CHANGEABLE and name != settings.traits.patient_field:
            raise field_error(name, "Extra inputs are not permitted")
    check_choice(body, "user_status", _USER_STATUSES)
    check_choice(body, "model", MODELS)
    check_choice(body, "session_mode", MODES)


def _check_hints(settings: VendorSettings, session: Session, hints: list[str]) -> None:
    """Answer 500 to a language that the server does not know (docs/vendor.md#patch-languages)."""
    known = settings.traits.languages
    if not settings.is_hosted and not all(each in known or each.partition("-")[0] in known for each in hints):
        raise unexpected_error(session.session_id)


def _apply(vendor: VendorState, session: Session, body: dict[str, Any]) -> None:
    hosted = vendor.settings.is_hosted
    if hosted:
        session.patient = body.get("session_details") or body.get("patient_details") or session.patient
    else:
        session.patient = body.get(vendor.settings.traits.patient_field, session.patient)
    if "templates" in body:
        _change_templates(vendor, session, list(body["templates"] or []))
    session.languages = list(body.get("language_hint", session.languages))
    session.session_mode = body.get("session_mode", session.session_mode)
    session.model = body.get("model", session.model)
    session.broken = "additional_data" in body
    session.processing_status = body.get("processing_status", session.processing_status)
    if "cancelled" in {body.get("user_status"), body.get("processing_status")}:
        if hosted:
            session.status, session.committed = "cancelled", True
        session.user_status = "cancelled"
        for task in list(session.tasks):
            task.cancel()
        session.announce_change()


def _change_templates(vendor: VendorState, session: Session, templates: list[str]) -> None:
    """Change the list; on-prem no document is made afterwards (docs/vendor.md#patch-templates)."""
    session.templates = templates
    if not vendor.settings.is_hosted:
        session.templates_patched = True
        return
    if session.committed:
        return
    session.documents = [each for each in session.documents if each.template_id in templates]
    kept = {each.template_id for each in session.documents}
    new_documents(vendor, session, [each for each in templates if each not in kept])


@post("/voice/v1/sessions/{session_id:str}/end")
async def end_session(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """End a session: every call answers 202 and processes again (docs/vendor.md#end-twice)."""
    vendor = vendor_of(request)
    settings = vendor.settings
    session = usable_session(vendor, session_id) if settings.is_hosted else vendor.session(session_id)
    body = await read_object(request)
    sent = body.get("audio_files_sent")
    if settings.is_hosted and (not isinstance(sent, int) or isinstance(sent, bool)):
        raise field_error("audio_files_sent", "Input should be a valid integer" if sent else "Field required")
    if isinstance(sent, int) and sent < 0:
        raise field_error("audio_files_sent", "Input should be greater than or equal to 0")
    if settings.is_hosted and session.is_expired():
        raise StandInError(410, Viewer(settings, session).view_expired())
    session.end_bodies.append(sent)
    start_processing(vendor, session)
    files = list_audio(settings, session, ordered=True)
    answer = {
        "session_id": session_id,
        "status": "processing",
        "message": "Session ended. Processing started.",
        "audio_files_received": len(files),
        "audio_files": files,
    }
    return Response(answer, status_code=202)


@post(
    [
        "/voice/v1/sessions/{session_id:str}/process/template/{template_id:str}",
        "/voice/v1/sessions/{session_id:str}/process/template",
    ]
)
async def process_template(
    request: VendorRequest,
    session_id: FromPath[str],
    template_id: FromPath[str] = "",
    document_id: FromQuery[str | None] = None,
) -> Response[dict[str, Any]]:
    """Make another document of a session (docs/vendor.md#process-template)."""
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    if vendor.settings.is_hosted:
        return _process_hosted(vendor, session, template_id)
    _check_processing(request, vendor, session, template_id, document_id)
    if vendor.settings.is_august:
        raise StandInError(401, dict(_NO_UUID))
    wanted = template_id or next(iter(session.templates), "")
    document = add_document(vendor, session, wanted)
    answer = {
        "session_id": session_id,
        "template_id": wanted,
        "document_id": document.document_id,
        "status": PENDING,
        "message": "Template generation in progress",
        "poll_url": f"/voice/v1/sessions/{session_id}?document_id={document.document_id}",
    }
    return Response(answer, status_code=202)


def _process_hosted(vendor: VendorState, session: Session, template_id: str) -> Response[dict[str, Any]]:
    wanted = template_id or next(iter(session.templates), "")
    check_template_exists(vendor, wanted)
    if session.status not in TERMINAL:
        message = "Session is not processed yet"
        raise transaction_error(409, "session_not_processed", message, session.session_id)
    document = add_document(vendor, session, wanted)
    answer = {
        "session_id": session.session_id,
        "status": "processing",
        "document_id": document.document_id,
    }
    return Response(answer, status_code=202)


def _check_processing(
    request: VendorRequest, vendor: VendorState, session: Session, template_id: str, document_id: str | None
) -> None:
    """Refuse what both on-prem servers refuse before they look at anything else."""
    session_id = session.session_id
    for header, known in (
        ("x-protocol", vendor.settings.traits.process_protocols),
        ("x-format", _FORMATS),
    ):
        asked = request.headers.get(header)
        if asked is not None and asked not in known:
            message = f"unsupported {header} '{asked}'; supported: {list(known)}"
            raise transaction_error(400, "bad_request", message, session_id)
    if document_id is None:
        return
    found = next((each for each in session.documents if each.document_id == document_id), None)
    if found is None:
        message = f"document {document_id} not found"
        raise transaction_error(404, "resource_not_found", message, session_id)
    if found.template_id != template_id:
        message = f"document {document_id} does not belong to template {template_id}"
        raise transaction_error(400, "bad_request", message, session_id)
