"""The routes of the MedScribe protocol that create, end and read a session."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, RawBody
from msgspec import UNSET

from schemas.medscribe import (
    CreateVoiceSession,
    EndVoiceSession,
    FormUpload,
    VoiceSession,
    VoiceSessionCreated,
    VoiceSessionEnded,
)
from schemas.sessions import SessionCreate, SessionEnd
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, read_json
from service.api.medscribe.error_envelope import as_medscribe_error
from service.api.medscribe.form_uploads import make_form, wants_form
from service.api.medscribe.session_responses import (
    count_files,
    format_timestamp,
    storage_provider_of,
    to_patient_details,
    to_response,
)
from service.domain.api_keys.models import Principal
from service.domain.errors import AudioIncomplete, InvalidRequest, NotFound
from service.domain.ids import SessionId, TemplateId
from service.domain.read_audit import has_patient_data
from service.domain.sessions.models import ProtocolWords
from service.store.medscribe_queries import MedscribeState


@post("/sessions", request_max_body_size=MAX_JSON_BYTES)
async def create_session(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    body: RawBody,
) -> VoiceSessionCreated:
    """Create a session; missing fields get the tenant's defaults."""
    payload = read_json(body, CreateVoiceSession)
    if payload.communication_protocol is None and not wants_form(request):
        raise InvalidRequest("is required: http, websocket or rpc", field="communication_protocol")
    protocol = ProtocolWords(
        upload_type=payload.upload_type, communication_protocol=payload.communication_protocol or "http"
    )
    session_id = await services.sessions.creator.start(
        principal,
        _to_session_create(payload),
        session_id=SessionId(payload.session_id) if payload.session_id else None,
        words=protocol,
    )
    state = await services.medscribe.queries.session(principal.tenant_id, session_id)
    upload_url = await _upload_url(request, services, principal, state)
    patient = to_patient_details(state.details.patient)
    return VoiceSessionCreated(
        session_id=session_id,
        created_at=format_timestamp(state.created_at),
        expires_at=format_timestamp(state.expires_at),
        upload_url=upload_url,
        storage_provider=storage_provider_of(upload_url),
        patient_details=patient,
        session_details=patient,
    )


def _to_session_create(payload: CreateVoiceSession) -> SessionCreate:
    return SessionCreate(
        templates=payload.templates,
        mode=payload.session_mode,
        model=payload.model,
        languages=payload.language_hint,
        transcript_language=payload.transcript_language,
        upload="stream" if payload.upload_type == "stream" else "chunked",
        patient=to_patient(payload.patient_details or payload.session_details),
        metadata=payload.additional_data,
    )


def to_patient(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rename the patient's `oid` to `id`, and drop blank ids and names, which clients send for none."""
    if not details:
        return None
    patient = {name: value for name, value in details.items() if name != "oid"}
    if "oid" in details:
        oid = details["oid"]
        patient["id"] = str(oid) if isinstance(oid, int) and not isinstance(oid, bool) else oid
    for name in ("id", "name"):
        if patient.get(name) in (None, ""):
            patient.pop(name, None)
    return patient or None


async def _upload_url(
    request: Request[Any, Any, Any], services: Services, principal: Principal, state: MedscribeState
) -> str | FormUpload:
    if state.upload == "stream":
        url = (await services.sessions.queries.session(principal.tenant_id, state.id)).stream_url
        assert url is not UNSET  # noqa: S101 - every stream session has one
        return str(url)
    if wants_form(request):
        return await make_form(services, principal, state)
    return f"{services.settings.public_url or ''}/voice/v1/sessions/{state.id}/audio"


@post("/sessions/{session_id:str}/end", status_code=202, request_max_body_size=MAX_JSON_BYTES)
async def end_session(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
    body: RawBody,
) -> VoiceSessionEnded:
    """End a session if at least `audio_files_sent` files are stored; repeating the call is safe."""
    sent = read_json(body, EndVoiceSession).audio_files_sent
    try:
        await services.sessions.lifecycle.end(
            principal, SessionId(session_id), SessionEnd(force=True), min_chunks=sent
        )
    except AudioIncomplete as short:
        state = await services.medscribe.queries.session(principal.tenant_id, SessionId(session_id))
        raise as_medscribe_error(
            short,
            409,
            short.code,
            audio_files_sent=sent,
            audio_files_received=len(state.files),
            audio_files=state.files,
        ) from None
    state = await services.medscribe.queries.session(principal.tenant_id, SessionId(session_id))
    return VoiceSessionEnded(
        session_id=session_id, audio_files_received=count_files(state), audio_files=state.files
    )


@get("/sessions/{session_id:str}")
async def get_session(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
    template_id: FromQuery[str | None] = None,
    document_id: FromQuery[str | None] = None,
) -> Response[VoiceSession]:
    """Return a session from the database; its HTTP status tells clients whether to ask again.

    Raises NotFound, also if a filter matches no document.
    """
    state = await services.medscribe.queries.session(principal.tenant_id, SessionId(session_id))
    if not state.is_over and state.status in {"processing", "partial"}:
        await services.sessions.result_refresher.hurry(principal.tenant_id, state.id)
    documents, is_pending = [], False
    if state.is_over and state.status in {"completed", "partial"}:
        template = TemplateId(template_id) if template_id else None
        if template == "transcript":  # EkaScribe's name for the result without documents
            template = None
        else:
            documents = await services.medscribe.queries.documents(principal.tenant_id, state.id, template)
        if document_id:
            documents = [document for document in documents if document.upstream_id == document_id]
        if template or document_id:
            is_pending = await services.medscribe.queries.is_pending(state.id, template, document_id)
            if not documents and not is_pending:
                raise as_medscribe_error(NotFound("no such document"), 404, "resource_not_found")
    upload_url = await _upload_url(request, services, principal, state)
    status, body = to_response(state, upload_url, documents, is_pending=is_pending)
    if documents or has_patient_data(state.details.patient, state.transcript):
        await services.sessions.read_audit.record(principal, "session.read", [state.id])
    return Response(body, status_code=status)
