"""The doors that change a session of the protocol, cancel it, or ask for another document of it."""

from litestar import patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RawBody
from msgspec import UNSET

from schemas.emr import SessionChange
from schemas.voice import PatchVoiceSession, TemplateAsked, VoiceSessionPatched
from service.api.bodies import MOST_JSON_BYTES, read_json
from service.api.services import Services
from service.api.voice.errors import spoken
from service.api.voice.sessions import as_patient
from service.domain.errors import InvalidRequest, SessionEnded
from service.domain.ids import SessionId, TemplateId
from service.domain.records import Principal


@patch("/sessions/{session_id:str}", status_code=200, request_max_body_size=MOST_JSON_BYTES)
async def patch_session(
    services: NamedDependency[Services],
    who: NamedDependency[Principal],
    session_id: FromPath[str],
    body: RawBody,
) -> VoiceSessionPatched:
    """Change a session before its end, or cancel it.

    `additional_data` is accepted and dropped, like every unknown field: the vendor breaks a session over it
    (facts.md, Sessions). A client that sends nothing else is therefore not refused after the end, but it is
    told that a session has expired.
    """
    asked = read_json(body, PatchVoiceSession)
    statuses = {asked.user_status, asked.processing_status} - {None}
    if statuses - {"cancelled"}:
        raise InvalidRequest("can only become `cancelled`", field="user_status")
    change = SessionChange(
        patient=as_patient(asked.patient_details or asked.session_details),
        templates=asked.templates,
        languages=asked.language_hint,
        mode=asked.session_mode,
        model=asked.model,
    )
    try:
        if statuses:
            await services.changes.cancel(who, SessionId(session_id))
        else:
            await services.changes.change(who, SessionId(session_id), change)
    except SessionEnded as ended:
        if not statuses and change == SessionChange() and asked.additional_data is not UNSET:
            return VoiceSessionPatched(session_id=session_id)
        raise spoken(ended, 409, "session_already_committed") from None
    return VoiceSessionPatched(session_id=session_id)


@post("/sessions/{session_id:str}/process/template/{template_id:str}", status_code=202)
async def process_template(
    services: NamedDependency[Services],
    who: NamedDependency[Principal],
    session_id: FromPath[str],
    template_id: FromPath[str],
) -> TemplateAsked:
    """Ask for another document of a finished session."""
    document_id = await services.further.ask(who, SessionId(session_id), TemplateId(template_id))
    return TemplateAsked(session_id=session_id, template_id=template_id, document_id=document_id or UNSET)
