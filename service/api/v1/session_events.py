"""The route of live updates: a session's timeline as server-sent events, resumable by Last-Event-ID."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
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

from schemas.sessions import TimelineEntry
from service.api import openapi_examples as examples
from service.api.dependencies import Services
from service.api.event_cursor import EventCursor
from service.api.problem_responses import documented
from service.api.request_classes import REQUEST_CLASS
from service.api.v1.sessions import SessionPath
from service.domain.api_keys.models import Principal
from service.domain.errors import SessionErased, StoreUnavailable
from service.domain.ids import SessionId, TenantId
from service.domain.sessions.change_polling import ChangePoller
from service.http_server import on_shutdown

log = structlog.get_logger()

# Proxies close connections that are silent for a minute, some after half a minute.
_KEEP_ALIVE_SECONDS = 15.0
# How often a stream checks whether its API key was revoked.
_REVOCATION_CHECK_SECONDS = 1.0
_MEDIA_TYPE = "text/event-stream"


def _encode_event(cursor: EventCursor, entry: TimelineEntry) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        str(cursor).encode(),
        entry.type.encode(),
        msgspec.json.encode(entry),
    )


def _example_stream() -> str:
    cursor = EventCursor()
    events = [_encode_event(cursor, entry).decode() for entry in examples.TIMELINE.items if cursor.add(entry)]
    return "".join([*events, ": keep-alive\n\n", "event: end\ndata: {}\n\n"])


@get(
    "/sessions/{session_id:str}/events",
    operation_id="followEvents",
    opt={REQUEST_CLASS: "waits"},
    summary="Follow a session's timeline live",
    tags=["Sessions"],
    responses={
        200: ResponseSpec(
            str,
            description="The timeline as server-sent events: first all past entries, then each new one. The "
            "stream ends with an event `end` once the session is finished and its deliveries are settled, "
            "or with an event `erased` if the session is erased.",
            media_type=_MEDIA_TYPE,
            generate_examples=False,
            examples=[Example(summary="Example", value=_example_stream())],
        ),
        204: ResponseSpec(
            None, description="There is no entry after `Last-Event-ID`, and there will be none"
        ),
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
        HeaderParameter(name="Last-Event-ID", description="The `id` of the last event that you received"),
    ] = None,
) -> Response[Any]:
    """Send every entry of the timeline, oldest first, and then each new one, whichever pod made it."""
    queries = services.sessions.queries
    is_over = await queries.is_over(principal.tenant_id, SessionId(session_id))
    cursor = EventCursor()
    # The permit bounds how many streams of a tenant resume at once: each reads the whole timeline.
    with services.sessions.timeline_poller.permit(principal.tenant_id):
        if last_event_id is not None:
            pages = _pages(services, principal.tenant_id, SessionId(session_id))
            cursor = await EventCursor.resume(last_event_id, pages)
            if is_over and not await _has_more(services, principal.tenant_id, SessionId(session_id), cursor):
                return Response(None, status_code=204)
    on_shutdown(request.scope, services.sessions.timeline_poller.close)
    return Stream(
        _follow(services, principal, SessionId(session_id), cursor),
        media_type=_MEDIA_TYPE,
        headers={"X-Accel-Buffering": "no"},
    )


async def _pages(
    services: Services, tenant_id: TenantId, session_id: SessionId
) -> AsyncGenerator[list[TimelineEntry], None]:
    """Read a timeline for a consumer that waits for nothing between the pages."""
    pages = services.sessions.queries.entry_pages(session_id)
    while True:
        async with services.sessions.timeline_poller.reading(tenant_id):
            page = await anext(pages, None)
            if page is None:
                return
            yield page


async def _has_more(
    services: Services, tenant_id: TenantId, session_id: SessionId, cursor: EventCursor
) -> bool:
    async with aclosing(_pages(services, tenant_id, session_id)) as pages:
        async for page in pages:
            if not all(cursor.has(entry) for entry in page):
                return True
    return False


async def _next_events(
    poller: ChangePoller, tenant_id: TenantId, pages: AsyncIterator[list[TimelineEntry]], cursor: EventCursor
) -> bytes | None:
    """Encode the new entries of the next page; None after the last one.

    A client that reads slowly keeps the bytes of one page in memory, and no more.
    """
    async with poller.reading(tenant_id):
        page = await anext(pages, None)
        if page is None:
            return None
        return b"".join([_encode_event(cursor, entry) for entry in page if cursor.add(entry)])


async def _follow(
    services: Services,
    principal: Principal,
    session_id: SessionId,
    cursor: EventCursor,
    keep_alive_seconds: float = _KEEP_ALIVE_SECONDS,
) -> AsyncGenerator[bytes, None]:
    poller, queries = services.sessions.timeline_poller, services.sessions.queries
    mark: str | None = ""
    with poller.permit(principal.tenant_id), services.access.revocations.watching(principal.key_id):
        while mark is not None:
            try:
                # `is_over` is read before the entries. In the other order, the stream could end without
                # an entry that was written between the two reads.
                is_over = await queries.is_over(principal.tenant_id, session_id)
                pages = queries.entry_pages(session_id, in_small_pages=cursor.is_empty)
                while (events := await _next_events(poller, principal.tenant_id, pages, cursor)) is not None:
                    if events:
                        yield events
            except SessionErased:
                yield b"event: erased\ndata: {}\n\n"
                return
            except StoreUnavailable:
                log.warning("event_stream_ends", session_id=session_id, reason="store_unavailable")
                return
            if is_over:
                yield b"event: end\ndata: {}\n\n"
                return
            changed = None
            silent_until = monotonic() + keep_alive_seconds
            while changed is None and not poller.is_closing:
                timeout_seconds = min(_REVOCATION_CHECK_SECONDS, max(0.0, silent_until - monotonic()))
                changed = await poller.changed(session_id, mark, timeout_seconds)
                if services.access.revocations.is_revoked(principal.key_id):
                    log.info("event_stream_ends", session_id=session_id, reason="key_revoked")
                    return
                if changed is None and monotonic() >= silent_until and not poller.is_closing:
                    yield b": keep-alive\n\n"
                    silent_until = monotonic() + keep_alive_seconds
            mark = changed
