"""Transcripts that a client uploads, and their translation (docs/vendor.md#convert)."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from service.sandbox.vendor.access import only_july
from service.sandbox.vendor.errors import (
    BUSINESS_ID,
    StandInError,
    field_error,
    not_found,
    transaction_error,
    unexpected_error,
)
from service.sandbox.vendor.processing import does_not_exist, settle
from service.sandbox.vendor.records import LLM_FAILURE, PENDING, Document, Session
from service.sandbox.vendor.requests import VendorRequest, read_object, vendor_of
from service.sandbox.vendor.state import VendorState

_PATH = "/voice/api/v1/transaction/{session_id:str}/convert-to-template"
_LANGUAGES = ("eng", "hi", "ta", "te", "bn", "mr", "gu", "kn", "ml", "pa", "as")


@post(_PATH)
async def convert_to_template(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Take a transcript in place of audio. August stores it and makes nothing of it; the others do."""
    vendor = vendor_of(request)
    body = await read_object(request)
    language = body.get("target_language")
    if language is not None and language not in _LANGUAGES:
        allowed = ", ".join(_LANGUAGES)
        message = f"Value error, Invalid target_language. Must be one of: {allowed}"
        raise field_error("target_language", message)
    session = vendor.sessions.get(session_id)
    if session is None or session.deleted:
        raise _unknown(vendor, session_id)
    text: Any = body.get("transcript")
    if vendor.settings.is_august:
        return _store(vendor, session, text)
    if text is None and language is None:
        message = "Either transcript or target_language must be provided"
        raise transaction_error(400, "invalid_request", message, session_id)
    if language is not None:
        return _translate(vendor, session, language)
    if "flavour" in request.headers:
        _keep(session, text)
        settle(vendor, session)
        return _accepted(session, "Transcript upload started in background")
    return _convert(vendor, session, text, body.get("template_id"))


@post(f"{_PATH}/{{template_id:str}}", guards=[only_july])
async def convert_stored(
    request: VendorRequest, session_id: FromPath[str], template_id: FromPath[str]
) -> Response[dict[str, Any]]:
    """Make a document from the transcript that is stored already."""
    vendor = vendor_of(request)
    session = vendor.session(session_id)
    return _generated(vendor, session, _add(vendor, session, template_id, good=True))


@get("/voice/v1/sessions/{session_id:str}/audio", guards=[only_july])
async def read_audio_address(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Session audio, which the stand-in never has to give."""
    vendor_of(request).session(session_id)
    message = "Audio is not available for this session"
    raise transaction_error(404, "audio_not_available", message, session_id)


@get("/voice/api/v3/transcript/{session_id:str}/{number:str}", guards=[only_july])
async def read_chunk_transcript(session_id: FromPath[str], number: FromPath[str]) -> Response[dict[str, Any]]:
    """The transcript of one chunk; July says so of every chunk, too."""
    message = f"Chunk transcript file for {number} not found"
    raise transaction_error(404, "resource_not_found", message, session_id, business_id=number)


def _unknown(vendor: VendorState, session_id: str) -> StandInError:
    if vendor.settings.is_august:
        message = "Transaction not found"
        return transaction_error(404, "transaction_not_found", message, session_id, business_id="")
    return unexpected_error(session_id) if vendor.settings.is_july else not_found()


def _keep(session: Session, text: str) -> None:
    """Commit the session with this transcript; no End Session was called, so nothing is waited for."""
    session.transcript.write(text)
    session.committed, session.user_status = True, "commit"
    session.status = "processing"


def _store(vendor: VendorState, session: Session, text: str | None) -> Response[dict[str, Any]]:
    if text is None:
        raise transaction_error(400, "invalid_request", "transcript is required", session.session_id)
    if session.user_status != "init":
        message = (
            f"Transaction not in init state for direct transcript. Current status: {session.user_status}"
        )
        raise transaction_error(400, "invalid_request", message, session.session_id)
    _keep(session, text)
    settle(vendor, session)
    return _accepted(session, "Transcript upload started in background")


def _convert(
    vendor: VendorState, session: Session, text: str, template_id: str | None
) -> Response[dict[str, Any]]:
    if template_id is None:
        requested = [each for each in session.documents if each.requested and not each.deleted]
        if not requested:
            message = "No template_id provided and no visual templates found in transaction data"
            raise transaction_error(400, "request_failure", message, session.session_id)
        _keep(session, text)
        requested[0].write(_note(text))
        return _generated(vendor, session, requested[0])
    if does_not_exist(template_id):
        return _generated(vendor, session, Document(template_id))
    is_first = session.user_status == "init"
    if is_first:
        _keep(session, text)
    return _generated(vendor, session, _add(vendor, session, template_id, good=is_first))


def _add(vendor: VendorState, session: Session, template_id: str, *, good: bool) -> Document:
    document = Document(template_id, name=vendor.name_of(template_id))
    if good:
        document.write(_note(session.transcript.content or ""))
    else:
        document.fail(LLM_FAILURE)
    session.documents.append(document)
    return document


def _translate(vendor: VendorState, session: Session, language: str) -> Response[dict[str, Any]]:
    name = f"transcript_{language}"
    document = Document(name, name=name, kind="transcript")
    document.write(f"[{language}] {session.transcript.content or ''}")
    session.documents.append(document)
    return _generated(vendor, session, document)


def _generated(vendor: VendorState, session: Session, document: Document) -> Response[dict[str, Any]]:
    settle(vendor, session)
    told = {"template_id": document.template_id, "document_id": document.document_id}
    return _accepted(session, "Template generation started in background", **told)


def _accepted(session: Session, message: str, **told: str) -> Response[dict[str, Any]]:
    answer = {"status": PENDING, "message": message, "txn_id": session.session_id, "b_id": BUSINESS_ID}
    return Response({**answer, **told}, status_code=202)


def _note(text: str) -> str:
    return f"## Clinical note\n\n- **From the transcript:** {text.splitlines()[0] if text else 'nothing'}"
