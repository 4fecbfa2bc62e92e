"""The routes of sessions: create, end, read, wait for, list, and the timeline."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery, PathParameter, QueryParameter, RawBody

from schemas.pages import Page
from schemas.sessions import Session, SessionCreate, SessionEnd, SessionStatus, TimelineEntry
from service.api import openapi_examples as examples
from service.api.authentication import check_not_revoked
from service.api.dependencies import Services
from service.api.idempotency import IdempotencyKey, keyed_response
from service.api.json_body import MAX_JSON_BYTES, json_operation, read_json
from service.api.openapi_examples import answer
from service.api.paging import DEFAULT_PAGE_SIZE, PageCursor, PageSize
from service.api.problem_responses import documented
from service.api.request_classes import WAIT_PARAMETER
from service.api.timestamps import MOMENT, read_moment
from service.domain.api_keys.models import Principal
from service.domain.errors import ClientDisconnected
from service.domain.ids import SessionId
from service.domain.sessions.change_polling import is_final, state_token
from service.http_server import on_shutdown
from service.store.paging import after_cursor
from service.store.session_queries import SessionFilter

_MAX_WAIT_SECONDS = 30

SessionPath = Annotated[str, PathParameter(description="A session's id")]


@post(
    "/sessions",
    operation_id="createSession",
    operation_class=json_operation(SessionCreate, examples.NEW_SESSION, required=False),
    summary="Start a dictation",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        201: answer(examples.CREATED, "The session; send audio to `audio_url`"),
        **documented(400, 401, 409, 410, 413, 422, 502, 503, 504),
    },
)
async def create_session(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    body: RawBody,
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Create a session in the database and at EkaScribe."""
    created = await services.sessions.creator.create(
        principal, read_json(body, SessionCreate), idempotency_key
    )
    if created.is_replayed:
        await services.sessions.read_audit.replayed(principal, created.body)
    return keyed_response(created, status_code=201)


@post(
    "/sessions/{session_id:str}/end",
    status_code=202,
    operation_id="endSession",
    operation_class=json_operation(SessionEnd, examples.END, required=False),
    summary="End a dictation",
    request_max_body_size=MAX_JSON_BYTES,
    responses={
        202: answer(examples.ENDED, "EkaScribe processes the audio"),
        **documented(400, 401, 404, 409, 410, 413, 502, 503, 504),
    },
)
async def end_session(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    body: RawBody,
) -> Session:
    """Check that all audio is stored and start processing; repeating the call is safe."""
    await services.sessions.lifecycle.end(principal, SessionId(session_id), read_json(body, SessionEnd))
    return await read_session_audited(services, principal, SessionId(session_id))


@get(
    "/sessions/{session_id:str}",
    operation_id="getSession",
    opt={WAIT_PARAMETER: "wait"},
    summary="Read a session, or wait for it to change",
    responses={
        200: answer(examples.COMPLETED, "The session as it stands"),
        **documented(400, 401, 404, 410, 503),
    },
)
async def get_session(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    wait: Annotated[
        float,
        QueryParameter(
            ge=0, le=_MAX_WAIT_SECONDS, description="Seconds to wait for the status to change, at most 30"
        ),
    ] = 0,
) -> Session:
    """Return a session from the database, without a call to EkaScribe."""
    session = await services.sessions.queries.session(principal.tenant_id, SessionId(session_id))
    if wait > 0 and not is_final(state_token(session)):
        on_shutdown(request.scope, services.sessions.change_poller.close)
        with services.sessions.change_poller.permit(principal.tenant_id):
            changed = services.sessions.change_poller.changed(
                SessionId(session_id), state_token(session), wait
            )
            await _wait_unless_disconnected(request, changed)
        await check_not_revoked(services, principal)
        session = await services.sessions.queries.session(principal.tenant_id, SessionId(session_id))
    await services.sessions.read_audit.sessions(principal, [session])
    return session


async def read_session_audited(services: Services, principal: Principal, session_id: SessionId) -> Session:
    """Return a session for a response, and record in the audit trail that its data were read."""
    session = await services.sessions.queries.session(principal.tenant_id, session_id)
    await services.sessions.read_audit.sessions(principal, [session])
    return session


async def _wait_unless_disconnected(
    request: Request[Any, Any, Any], waiting: Coroutine[Any, Any, object]
) -> None:
    """Await `waiting`; raise ClientDisconnected as soon as the client disconnects."""

    async def wait_for_disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(waiting), asyncio.create_task(wait_for_disconnect())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] not in done:
            raise ClientDisconnected("the client went away while it waited")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@get(
    "/sessions",
    operation_id="listSessions",
    summary="List sessions, newest first",
    responses={
        200: answer(Page(items=[examples.COMPLETED]), "One page", kind=Page[Session]),
        **documented(400, 401, 503),
    },
)
async def list_sessions(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    status: FromQuery[SessionStatus | None] = None,
    reference: FromQuery[str | None] = None,
    patient_id: FromQuery[str | None] = None,
    created_after: Annotated[
        str | None, QueryParameter(description="RFC 3339 with a zone", schema_extra=MOMENT)
    ] = None,
    limit: PageSize = DEFAULT_PAGE_SIZE,
    cursor: PageCursor = None,
) -> Page[Session]:
    """Return one page of the sessions that match all filters."""
    after_time = read_moment(created_after, "created_after")
    filters = SessionFilter(
        status=status, reference=reference, patient_id=patient_id, created_after=after_time
    )
    page = await services.sessions.queries.page(principal.tenant_id, filters, after_cursor(cursor), limit)
    await services.sessions.read_audit.sessions(principal, page.items)
    return page


@get(
    "/sessions/{session_id:str}/timeline",
    operation_id="getTimeline",
    summary="What happened to a session, and when",
    responses={
        200: answer(examples.TIMELINE, "Every step, oldest first", kind=Page[TimelineEntry]),
        **documented(400, 401, 404, 410, 503),
    },
)
async def get_timeline(
    services: NamedDependency[Services], principal: NamedDependency[Principal], session_id: SessionPath
) -> Page[TimelineEntry]:
    """Return every step in order, oldest first."""
    return Page(items=await services.sessions.queries.timeline(principal.tenant_id, SessionId(session_id)))


sessions_router = Router(
    "",
    route_handlers=[
        create_session,
        end_session,
        get_session,
        list_sessions,
        get_timeline,
    ],
    tags=["Sessions"],
)
