"""Create Session and Get Session."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.errors import field_error, transaction_error, unexpected_error
from service.sandbox.vendor.processing import new_documents
from service.sandbox.vendor.records import Document, Session, StreamLog, timestamp
from service.sandbox.vendor.requests import (
    VendorRequest,
    account_of,
    base_url,
    check_choice,
    check_strings,
    check_template_exists,
    read_object,
    usable_session,
    user_of,
    vendor_of,
    wants_form,
)
from service.sandbox.vendor.response_parts import view_patient, view_upload_url
from service.sandbox.vendor.responses import Viewer
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.webhooks import announce_event

UPLOAD_TYPES = ("chunked", "single", "stream")
MODELS = ("pro", "lite")
MODES = ("consultation", "dictation", "bdic_2025")
_PROTOCOLS = ("websocket", "http", "rpc")
_SHORTEST_ID, _LONGEST_ID = 16, 32
_POLL_STEP_SECONDS = 0.5


@post("/voice/v1/sessions")
async def create_session(request: VendorRequest) -> Response[dict[str, Any]]:
    """Create a session (docs/vendor.md#create)."""
    vendor = vendor_of(request)
    body = await read_object(request, required=not vendor.settings.is_hosted)
    form = wants_form(request)
    session_id = body.get("session_id") or f"ses_{secrets.token_hex(10)}"
    request.scope["state"]["sandbox_session_id"] = session_id
    _check_create(vendor, body, session_id, wants_form=form)
    known = vendor.sessions.get(session_id)
    if known is not None:
        known.damaged = True
        known.creates += 1
        raise transaction_error(409, "txn_already_initialized", "Transaction already initialized", session_id)
    session = _open_session(vendor, request, body, session_id)
    announce_event(vendor, session, "scribe.session.init")
    if not vendor.settings.is_hosted and session.stream is not None:
        raise unexpected_error(session_id)
    view: dict[str, Any] = {
        "session_id": session_id,
        "status": "created",
        "created_at": timestamp(session.created_at),
        "expires_at": timestamp(session.expires_at),
        "upload_url": view_upload_url(session, form=form),
        **view_patient(vendor.settings, session),
    }
    if not vendor.settings.is_hosted:
        view["storage_provider"] = "aws" if isinstance(view["upload_url"], dict) else None
    return Response(view, status_code=201)


def _check_create(vendor: VendorState, body: dict[str, Any], session_id: Any, *, wants_form: bool) -> None:
    settings = vendor.settings
    if "upload_type" not in body and not settings.is_hosted:
        raise field_error("upload_type", "Field required")
    check_choice({"upload_type": body.get("upload_type")}, "upload_type", UPLOAD_TYPES)
    if settings.is_hosted:
        needed = not wants_form or body.get("communication_protocol") is not None
        protocol = {"communication_protocol": body.get("communication_protocol") or ""}
        check_choice(protocol if needed else {}, "communication_protocol", _PROTOCOLS)
    else:
        check_choice(body, "communication_protocol", _PROTOCOLS)
        check_choice(body, "model", MODELS)
        check_choice(body, "session_mode", MODES)
        if not isinstance(body.get("additional_data") or {}, dict):
            raise field_error("additional_data", "Input should be a valid dictionary")
    check_strings(body, "templates", most=2)
    check_strings(body, "language_hint")
    if not isinstance(session_id, str) or len(session_id) < _SHORTEST_ID:
        raise field_error("session_id", f"String should have at least {_SHORTEST_ID} characters")
    if len(session_id) > _LONGEST_ID:
        raise field_error("session_id", f"String should have at most {_LONGEST_ID} characters")
    _check_languages(vendor, body.get("language_hint") or [], session_id)
    for template_id in body.get("templates") or []:
        check_template_exists(vendor, template_id)


def _check_languages(vendor: VendorState, hints: list[str], session_id: str) -> None:
    """Refuse a create without a known language; July takes any (docs/vendor.md#languages-required)."""
    settings = vendor.settings
    if settings.is_july:
        return
    known = hints
    if settings.is_august:
        known = [each for each in hints if each.partition("-")[0] in settings.traits.languages]
    if settings.require_language_hint and not known:
        message = "language_hint is required on session create; supported languages: en, hi, en-hi"
        raise transaction_error(400, "bad_request", message, session_id)


def _open_session(
    vendor: VendorState, request: VendorRequest, body: dict[str, Any], session_id: str
) -> Session:
    now, base, settings = time.time(), base_url(request), vendor.settings
    stream = StreamLog(f"str_{secrets.token_hex(12)}") if body["upload_type"] == "stream" else None
    templates = body.get("templates") or []
    protocol = {
        "version": "0.1",
        "upload_type": body["upload_type"],
        "communication_protocol": body.get("communication_protocol") or "http",
        "requested_templates": templates,
    }
    session = Session(
        session_id=session_id,
        upload_type=body["upload_type"],
        base_url=base,
        upload_url=_choose_upload_url(vendor, base, session_id, stream),
        templates=list(templates),
        model=body.get("model") or ("lite" if settings.is_hosted else "pro"),
        session_mode=body.get("session_mode") or ("dictation" if settings.is_hosted else "consultation"),
        languages=list(body.get("language_hint") or []),
        patient=_choose_patient(vendor, body),
        additional_data={**(body.get("additional_data") or {}), "_protocol": protocol},
        created_at=now,
        expires_at=now + settings.session_seconds,
        transcript=Document("transcript", name="transcript", kind="transcript", created_at=now),
        stream=stream,
        account=account_of(request),
        owner=user_of(request),
        flavour="" if settings.is_hosted else request.headers.get("flavour", ""),
    )
    if not (session.flavour and settings.is_august):
        new_documents(vendor, session, list(templates))
    vendor.sessions[session_id] = session
    if stream is not None and settings.is_hosted:
        vendor.streams[stream.stream_id] = session_id
    return session


def _choose_upload_url(vendor: VendorState, base: str, session_id: str, stream: StreamLog | None) -> str:
    address = f"{base}/voice/v1/sessions/{session_id}/audio"
    if stream is None or vendor.settings.is_august:
        return address
    host = vendor.settings.stream_base_url or re.sub("^http", "ws", base)
    if vendor.settings.is_july:
        return f"{host}/voice/v1/sessions/{session_id}/audio/stream"
    return f"{host}/voice/v1/stream/sessions/{stream.stream_id}/audio"


def _choose_patient(vendor: VendorState, body: dict[str, Any]) -> dict[str, Any] | None:
    """Take the field that the character knows, and drop the other on-prem (docs/vendor.md#patient-names)."""
    patient: dict[str, Any] | None = body.get(vendor.settings.traits.patient_field)
    if vendor.settings.is_hosted:
        return patient or body.get("session_details")
    return patient


@get("/voice/v1/sessions/{session_id:str}")
async def get_session(
    request: VendorRequest,
    session_id: FromPath[str],
    template_id: FromQuery[str | None] = None,
    document_id: FromQuery[str | None] = None,
) -> Response[dict[str, Any]]:
    """Get Session; it holds a 202 for up to `long_poll_seconds`, unless nothing was ended yet.

    A filtered 202 is held even before the end (docs/vendor.md#long-poll, docs/vendor.md#filtered-pending).
    """
    vendor = vendor_of(request)
    session = usable_session(vendor, session_id)
    session.gets[f"document:{document_id}" if document_id else template_id or ""] += 1
    deadline = time.monotonic() + vendor.settings.long_poll_seconds
    viewer = Viewer(vendor.settings, session, wants_form(request))
    while True:
        changed = session.changed
        view = viewer.view(template_id, document_id)
        left = deadline - time.monotonic()
        if not view.waits or left <= 0:
            return Response(view.body, status_code=view.status)
        try:
            await asyncio.wait_for(changed.wait(), min(left, _POLL_STEP_SECONDS))
        except TimeoutError:
            continue
