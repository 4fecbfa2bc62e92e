"""The routes that change, erase or refresh a session."""

from litestar import Router, delete, patch, post
from litestar.di import NamedDependency
from litestar.params import RawBody

from schemas.sessions import Session, SessionChange, SessionErasure
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.problem_responses import documented
from service.api.v1.sessions import SessionPath, read_session_audited
from service.domain.api_keys.models import Principal
from service.domain.ids import SessionId


@patch(
    "/sessions/{session_id:str}",
    operation_id="changeSession",
    operation_class=json_operation(SessionChange, examples.CHANGE, required=False),
    summary="Change patient, templates or languages, before the end",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        200: answer(examples.CREATED, "The session as it stands now"),
        **documented(400, 401, 404, 409, 410, 413, 502, 503, 504),
    },
)
async def change_session(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    body: RawBody,
) -> Session:
    """Change the given fields, at EkaScribe first; other fields keep their values."""
    await services.sessions.updates.change(principal, SessionId(session_id), read_json(body, SessionChange))
    return await read_session_audited(services, principal, SessionId(session_id))


@delete(
    "/sessions/{session_id:str}",
    status_code=202,
    operation_id="eraseSession",
    summary="Erase a session and everything of it, for good",
    responses={
        202: answer(
            examples.ERASED, "The session is erased; if it still ran, EkaScribe is asked to cancel it"
        ),
        **documented(400, 401, 404, 410, 503),
    },
)
async def erase_session(
    services: NamedDependency[Services], principal: NamedDependency[Principal], session_id: SessionPath
) -> SessionErasure:
    """Cancel the session if it still runs, and erase all its data."""
    status = await services.sessions.updates.erase(principal, SessionId(session_id))
    return SessionErasure(id=session_id, status=status)


@post(
    "/sessions/{session_id:str}/refresh",
    status_code=202,
    operation_id="refreshSession",
    summary="Ask EkaScribe again for the results of a finished session",
    responses={
        202: answer(
            examples.COMPLETED, "EkaScribe is asked again; new results arrive as documents or new versions"
        ),
        **documented(400, 401, 404, 409, 410, 503),
    },
)
async def refresh_session(
    services: NamedDependency[Services], principal: NamedDependency[Principal], session_id: SessionPath
) -> Session:
    """Schedule one call to EkaScribe for all results; documents that have not changed are ignored."""
    await services.sessions.result_refresher.refresh(
        principal.tenant_id, SessionId(session_id), principal.key_id
    )
    return await read_session_audited(services, principal, SessionId(session_id))


session_updates_router = Router(
    "", route_handlers=[change_session, erase_session, refresh_session], tags=["Sessions"]
)
