from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Any

import msgspec
from litestar import Request, Response, get, patch, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery

from service.sandbox.answers import VendorError, field_error, plain_error, transaction_error, unexpected_error
from service.sandbox.processing import add_document, start_processing
from service.sandbox.settings import VendorSettings
from service.sandbox.vendor_state import TERMINAL, Session, StreamLog, VendorState, timestamp
from service.sandbox.views import list_audio, view_patient, view_session

VendorRequest = Request[Any, Any, State]

_UPLOAD_TYPES = ("chunked", "single", "stream")
_PROTOCOLS = ("http", "websocket", "rpc")


def vendor_of(request: VendorRequest) -> VendorState:
    """Find the state behind this request's app."""
    vendor: VendorState = request.app.state.vendor
    return vendor


def base_url(request: VendorRequest) -> str:
    """Scheme and host as the client spelled them, without a trailing slash."""
    return str(request.base_url).rstrip("/")


async def read_object(request: VendorRequest) -> dict[str, Any]:
    """Decode the request's JSON object, {} for an empty body; raises `VendorError` 400 for anything else."""
    body = await request.body()
    try:
        return msgspec.json.decode(body, type=dict[str, Any]) if body else {}
    except msgspec.MsgspecError as error:
        raise plain_error(400, "BAD_REQUEST", "Field 'body': Input should be a valid JSON object") from error


def usable_session(vendor: VendorState, session_id: str) -> Session:
    """Find the session; `VendorError` 404 when unknown, 500 after a PATCH of `additional_data` (facts)."""
    session = vendor.session(session_id)
    if session.broken:
        raise unexpected_error(session_id)
    return session


@post("/voice/v1/sessions")
async def create_session(request: VendorRequest) -> Response[dict[str, Any]]:
    """Create Session (seed 000)."""
    vendor = vendor_of(request)
    body = await read_object(request)
    wants_form = request.query_params.get("version") == "v2" or "flavour" in request.headers
    session_id = body.get("session_id") or f"ses_{secrets.token_hex(10)}"
    request.scope["state"]["sandbox_session_id"] = session_id
    _check_create(vendor.settings, body, session_id, wants_form=wants_form)
    known = vendor.sessions.get(session_id)
    if known is not None:
        known.damaged = True
        known.creates += 1
        raise transaction_error(409, "txn_already_initialized", "Transaction already initialized", session_id)
    session = _open_session(vendor, body, session_id, base_url(request))
    session.account = request.scope["state"]["sandbox_account"]
    echoed = view_patient(vendor.settings, session)
    view: dict[str, Any] = {
        "session_id": session_id,
        "status": "created",
        "created_at": timestamp(session.created_at),
        "expires_at": timestamp(session.expires_at),
        "upload_url": _form_upload(session, base_url(request)) if wants_form else session.upload_url,
        **echoed,
    }
    if vendor.settings.style == "onprem":
        view["storage_provider"] = "aws" if wants_form else None
        view["session_details"] = body.get("session_details")
    return Response(view, status_code=201)


def _check_create(
    settings: VendorSettings, body: dict[str, Any], session_id: Any, *, wants_form: bool
) -> None:
    if body.get("upload_type") not in _UPLOAD_TYPES:
        raise field_error("upload_type", "Input should be 'chunked', 'single' or 'stream'")
    protocol = body.get("communication_protocol")
    if protocol not in _PROTOCOLS and not (wants_form and protocol is None):
        raise field_error("communication_protocol", "Input should be 'websocket', 'http' or 'rpc'")
    check_templates(body.get("templates"))
    if not isinstance(session_id, str) or not 16 <= len(session_id) <= 32:
        raise field_error("session_id", "String should have 16 to 32 characters")
    if settings.require_language_hint and not body.get("language_hint"):
        message = "language_hint is required on session create; supported languages: en, hi, en-hi"
        raise transaction_error(400, "bad_request", message, session_id)
    for template_id in body.get("templates") or []:
        check_template_exists(template_id)
    if settings.style == "onprem" and body["upload_type"] == "stream":
        raise unexpected_error(session_id)


def check_templates(templates: Any) -> None:
    """Refuse what is not a list of at most two strings."""
    if templates is None:
        return
    if not isinstance(templates, list) or not all(isinstance(each, str) for each in templates):
        raise field_error("templates", "Input should be a valid list")
    if len(templates) > 2:
        raise field_error(
            "templates", f"List should have at most 2 items after validation, not {len(templates)}"
        )


def check_template_exists(template_id: str) -> None:
    """Refuse template ids that start with "no_such"."""
    if template_id.startswith("no_such"):
        raise transaction_error(400, "bad_request", f"Template '{template_id}' is not available", "")


def _open_session(vendor: VendorState, body: dict[str, Any], session_id: str, base: str) -> Session:
    now = time.time()
    stream = StreamLog(f"str_{secrets.token_hex(12)}") if body["upload_type"] == "stream" else None
    url = f"{base}/voice/v1/sessions/{session_id}/audio"
    if stream is not None:
        vendor.streams[stream.stream_id] = session_id
        host = vendor.settings.stream_base_url or re.sub("^http", "ws", base)
        url = f"{host}/voice/v1/stream/sessions/{stream.stream_id}/audio"
    templates = body.get("templates") or []
    protocol = {
        "version": "0.1",
        "upload_type": body["upload_type"],
        "communication_protocol": body.get("communication_protocol", "http"),
        "requested_templates": templates,
    }
    session = Session(
        session_id=session_id,
        upload_type=body["upload_type"],
        upload_url=url,
        templates=list(templates),
        model=body.get("model") or "lite",
        session_mode=body.get("session_mode") or "dictation",
        languages=list(body.get("language_hint") or []),
        patient=body.get("patient_details") or body.get("session_details"),
        additional_data={**(body.get("additional_data") or {}), "_protocol": protocol},
        created_at=now,
        expires_at=now + vendor.settings.session_seconds,
        stream=stream,
    )
    vendor.sessions[session_id] = session
    return session


def _form_upload(session: Session, base: str) -> dict[str, Any]:
    folder = f"{timestamp(session.created_at)[2:10].replace('-', '')}/{session.session_id}"
    fields = {
        "key": f"{folder}/${{filename}}",
        "x-scribe-prefix": folder,
        "x-scribe-expires": str(int(session.expires_at)),
        "x-scribe-token": secrets.token_hex(16),
        "x-amz-meta-bid": "onprem-workspace",
        "x-amz-meta-txnid": session.session_id,
    }
    upload = {"url": f"{base}/voice/v1/blob-upload/voice-records", "fields": fields}
    return {"uploadData": upload, "folderPath": f"{folder}/", "txn_id": session.session_id}


@get("/voice/v1/sessions/{session_id:str}")
async def get_session(
    request: VendorRequest,
    session_id: FromPath[str],
    template_id: FromQuery[str | None] = None,
    document_id: FromQuery[str | None] = None,
) -> Response[dict[str, Any]]:
    """Get Session (seed 001); after the end it holds a 202 for up to `long_poll_seconds`."""
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    session.gets[f"document:{document_id}" if document_id else template_id or ""] += 1
    deadline = time.monotonic() + vendor.settings.long_poll_seconds
    while True:
        changed = session.changed
        status, view = view_session(vendor.settings, session, template_id, document_id)
        left = deadline - time.monotonic()
        if status != 202 or left <= 0 or not session.committed:
            return Response(view, status_code=status)
        try:
            await asyncio.wait_for(changed.wait(), left)
        except TimeoutError:
            continue


@patch("/voice/v1/sessions/{session_id:str}")
async def update_session(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """PATCH of a session (facts, Sessions); cancelling stops its processing."""
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    body = await read_object(request)
    if session.committed and ("session_mode" in body or "model" in body):
        message = "mode and model can only be updated before the session is committed"
        raise transaction_error(409, "session_already_committed", message, session_id)
    check_templates(body.get("templates"))
    session.patient = body.get("session_details") or body.get("patient_details") or session.patient
    session.templates = list(body.get("templates", session.templates))
    session.languages = list(body.get("language_hint", session.languages))
    session.session_mode = body.get("session_mode", session.session_mode)
    session.model = body.get("model", session.model)
    session.broken = "additional_data" in body
    if "cancelled" in {body.get("user_status"), body.get("processing_status")}:
        for task in list(session.tasks):
            task.cancel()
        session.status, session.committed = "cancelled", True
        session.announce_change()
    answer = {"session_id": session_id, "status": "success", "message": "Session updated successfully"}
    return Response(answer, status_code=200)


@post("/voice/v1/sessions/{session_id:str}/end")
async def end_session(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """End Session (seed 003) without a guard: every call answers 202 and processes again (facts, End)."""
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    body = await read_object(request)
    sent = body.get("audio_files_sent")
    if not isinstance(sent, int) or isinstance(sent, bool):
        raise field_error("audio_files_sent", "Input should be a valid integer" if sent else "Field required")
    if sent < 0:
        raise field_error("audio_files_sent", "Input should be greater than or equal to 0")
    if session.is_expired():
        raise VendorError(410, view_session(vendor.settings, session, None, None)[1])
    session.end_bodies.append(sent)
    start_processing(vendor, session)
    files = list_audio(vendor.settings, session, ordered=True)
    answer = {
        "session_id": session_id,
        "status": "processing",
        "message": "Session ended. Processing started.",
        "audio_files_received": len(files),
        "audio_files": files,
    }
    return Response(answer, status_code=202)


@post("/voice/v1/sessions/{session_id:str}/process/template/{template_id:str}")
async def process_template(
    request: VendorRequest, session_id: FromPath[str], template_id: FromPath[str]
) -> Response[dict[str, Any]]:
    """Another document of a finished session (facts, Sessions)."""
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    check_template_exists(template_id)
    if session.status not in TERMINAL:
        raise transaction_error(409, "session_not_processed", "Session is not processed yet", session_id)
    document = add_document(vendor, session, template_id)
    answer = {"session_id": session_id, "status": "processing", "document_id": document.document_id}
    return Response(answer, status_code=202)
