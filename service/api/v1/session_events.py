"""The door of live updates: a session's timeline as server-sent events."""

from collections.abc import AsyncGenerator
from time import monotonic
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter
from litestar.response import Stream

from schemas.emr import TimelineEntry
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.event_cursor import Position
from service.api.problems import documented
from service.api.request_classes import REQUEST_KIND
from service.api.v1.sessions import SessionPath
from service.domain.errors import SessionErased, StoreUnavailable
from service.domain.ids import SessionId
from service.domain.models import Principal
from service.http_server.graceful_shutdown import on_shutdown

log = structlog.get_logger()

# Proxies cut what is silent for a minute, some for half of one.
_KEEP_ALIVE_SECONDS = 15.0
# How often a stream looks whether its key was revoked.
_LOOK_SECONDS = 1.0
_MEDIA_TYPE = "text/event-stream"


def _event(position: Position, entry: TimelineEntry) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        str(position).encode(),
        entry.type.encode(),
        msgspec.json.encode(entry),
    )


def _example() -> str:
    position = Position()
    sent = [_event(position, entry).decode() for entry in examples.TIMELINE.items if position.add(entry)]
    return "".join([*sent, ": keep-alive\n\n", "event: end\ndata: {}\n\n"])


@get(
    "/sessions/{session_id:str}/events",
    operation_id="followEvents",
    opt={REQUEST_KIND: "waits"},
    summary="What happens to a session, live",
    tags=["Sessions"],
    responses={
        200: ResponseSpec(
            str,
            description="The timeline as server-sent events: first what has happened, then what happens. It "
            "stays open until the session is over and nothing of it is on its way any more; then comes an "
            "event `end`, or `erased` when the session is erased meanwhile.",
            media_type=_MEDIA_TYPE,
            generate_examples=False,
            examples=[Example(summary="Example", value=_example())],
        ),
        204: ResponseSpec(None, description="There is nothing after `Last-Event-ID`, and nothing will come"),
        **documented(400, 401, 404, 410, 503),
    },
)
async def follow_events(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(name="Last-Event-ID", description="The `id` of the last event that you got"),
    ] = None,
) -> Response[Any]:
    """Send every step, oldest first, and then each one as it happens, from whichever pod."""
    position = Position.read(last_event_id or "")
    is_over = await services.session_queries.is_over(principal.tenant_id, SessionId(session_id))
    if is_over and last_event_id is not None:
        entries = await services.session_queries.entries(SessionId(session_id))
        known = Position.read(last_event_id)
        if not any(known.add(entry) for entry in entries):
            return Response(None, status_code=204)
    services.timeline_poller.check_room(principal.tenant_id)
    on_shutdown(request.scope, services.timeline_poller.let_go)
    return Stream(
        _follow(services, principal, SessionId(session_id), position),
        media_type=_MEDIA_TYPE,
        headers={"X-Accel-Buffering": "no"},
    )


async def _follow(
    services: Services,
    principal: Principal,
    session_id: SessionId,
    position: Position,
    keep_alive_seconds: float = _KEEP_ALIVE_SECONDS,
) -> AsyncGenerator[bytes, None]:
    watch, views = services.timeline_poller, services.session_queries
    mark: str | None = ""
    with watch.place(principal.tenant_id), services.revocations.watching(principal.key_id):
        while mark is not None:
            try:
                # Before the entries are read: what comes in between is found at the next look.
                is_over = await views.is_over(principal.tenant_id, session_id)
                entries = await views.entries(session_id)
            except SessionErased:
                yield b"event: erased\ndata: {}\n\n"
                return
            except StoreUnavailable:
                log.warning("event_stream_ends", session_id=session_id, reason="store_unavailable")
                return
            for entry in entries:
                if position.add(entry):
                    yield _event(position, entry)
            if is_over:
                yield b"event: end\ndata: {}\n\n"
                return
            changed = None
            silent_until = monotonic() + keep_alive_seconds
            while changed is None and not watch.is_closing:
                look_seconds = min(_LOOK_SECONDS, max(0.0, silent_until - monotonic()))
                changed = await watch.changed(session_id, mark, look_seconds)
                if services.revocations.is_revoked(principal.key_id):
                    log.info("event_stream_ends", session_id=session_id, reason="key_revoked")
                    return
                if changed is None and monotonic() >= silent_until and not watch.is_closing:
                    yield b": keep-alive\n\n"
                    silent_until = monotonic() + keep_alive_seconds
            mark = changed
