"""The routes of the MedScribe protocol that change or cancel a session, or request another document of it."""

from urllib.parse import urlencode

from litestar import patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody
from msgspec import UNSET

from schemas.medscribe import PatchVoiceSession, TemplateAsked, VoiceSessionPatched
from schemas.sessions import SessionChange
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, read_json
from service.api.medscribe.error_envelope import as_medscribe_error
from service.api.medscribe.sessions import to_patient
from service.domain.api_keys.models import Principal
from service.domain.errors import InvalidRequest, SessionEnded
from service.domain.ids import SessionId, TemplateId


@patch("/sessions/{session_id:str}", status_code=200, request_max_body_size=MAX_JSON_BYTES)
async def patch_session(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
    body: RawBody,
) -> VoiceSessionPatched:
    """Change a session before its end, or cancel it.

    `additional_data` is accepted and ignored, like every unknown field, because it breaks a session at
    EkaScribe (docs/vendor.md#patch-metadata). A request with no other field therefore succeeds even after the
    end of a session, but not after its expiry.
    """
    payload = read_json(body, PatchVoiceSession)
    statuses = {payload.user_status, payload.processing_status} - {None}
    if statuses - {"cancelled"}:
        raise InvalidRequest("can only become `cancelled`", field="user_status")
    change = SessionChange(
        patient=to_patient(payload.patient_details or payload.session_details),
        templates=payload.templates,
        languages=payload.language_hint,
        mode=payload.session_mode,
        model=payload.model,
    )
    try:
        if statuses:
            await services.sessions.updates.cancel(principal, SessionId(session_id))
        else:
            await services.sessions.updates.change(principal, SessionId(session_id), change)
    except SessionEnded as ended:
        if not statuses and change == SessionChange() and payload.additional_data is not UNSET:
            return VoiceSessionPatched(session_id=session_id)
        raise as_medscribe_error(ended, 409, "session_already_committed") from None
    return VoiceSessionPatched(session_id=session_id)


@post("/sessions/{session_id:str}/process/template/{template_id:str}", status_code=202)
async def process_template(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
    template_id: FromPath[str],
) -> TemplateAsked:
    """Request another document of a finished session."""
    return await _ask(services, principal, SessionId(session_id), TemplateId(template_id))


@post("/sessions/{session_id:str}/process/template", status_code=202)
async def process_requested_template(
    services: NamedDependency[Services], principal: NamedDependency[Principal], session_id: FromPath[str]
) -> TemplateAsked:
    """Request another document from the session's first template (docs/vendor.md#process-template)."""
    state = await services.medscribe.queries.session(principal.tenant_id, SessionId(session_id))
    if not state.templates:
        raise InvalidRequest("is needed: the session was created without templates", field="template_id")
    return await _ask(services, principal, state.id, TemplateId(state.templates[0]))


async def _ask(
    services: Services, principal: Principal, session_id: SessionId, template_id: TemplateId
) -> TemplateAsked:
    document_id = await services.sessions.additional_documents.ask(principal, session_id, template_id)
    # While EkaScribe has not named the document yet, a filter by its template finds it.
    query = {"document_id": document_id} if document_id else {"template_id": template_id}
    return TemplateAsked(
        session_id=session_id,
        template_id=template_id,
        document_id=document_id or UNSET,
        poll_url=f"/voice/v1/sessions/{session_id}?{urlencode(query)}",
    )
