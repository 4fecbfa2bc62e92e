"""The outermost middleware: an id, a trace span, a line of the access log and a measurement for each request.

It also adds headers that every response needs and sends large bodies in pieces.
"""

import re
import secrets
import time
from functools import cache
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from litestar.utils.path import normalize_path
from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram

from service.api.middleware.session_trace import SessionTraces
from service.api.rate_limit import rate_limit_fields
from service.observability.tracing import fail, is_on, span_of

log = structlog.get_logger()

_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SESSION_ID = re.compile(r"ses_[A-Za-z0-9]{12,28}")
_HEADER = b"x-request-id"
_KEY = "ekabridge.request_id"
# The key of a scope that holds a function; it is called with the size of a large body that is about to be
# sent.
RESPONSE_READY = "ekabridge.response_ready"
_PIECE_BYTES = 65_536
# Proxies and browsers must not store what a tenant reads.
_NO_STORE = ((b"cache-control", b"no-store"),)
_UNCACHED_PATHS = ("/v1/", "/voice/v1/sessions", "/voice/v1/templates", "/connect-auth/")

REQUESTS = Counter("ekabridge_http_requests", "Requests answered, by route.", ("method", "route", "status"))
SECONDS = Histogram(
    "ekabridge_http_request_duration_seconds",
    "Seconds from a request's first byte to its answer's last.",
    ("method", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
# The span of a webhook starts in service/api/vendor_webhooks.py, once its session is known.
_UNTRACED = ("/health", "/metrics", "/webhooks/")
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def request_id_of(scope: Any) -> str:
    """Return the id of a request."""
    return str(scope.get(_KEY, ""))


class RequestContextMiddleware:
    """ASGI middleware around all others, so that requests without a route are logged and measured too."""

    def __init__(self, app: ASGIApp, traces: SessionTraces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {ScopeType.HTTP, ScopeType.WEBSOCKET}:
            await self._app(scope, receive, send)
            return
        # Litestar normalises the path likewise. Without this, another spelling of a path would escape the
        # checks that compare the beginning of the path.
        scope["path"] = normalize_path(scope["path"])
        request_id = _request_id(scope)
        scope[_KEY] = request_id  # type: ignore[literal-required]
        if scope["type"] != ScopeType.HTTP:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self._app(scope, receive, send)
            return
        status, size, started = 499, 0, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (_HEADER, request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *rate_limit_fields(scope),
                    *(_NO_STORE if scope["path"].startswith(_UNCACHED_PATHS) else ()),
                ]
            elif message["type"] == "http.response.body":
                body = message.get("body", b"")
                size += len(body)
                if len(body) > _PIECE_BYTES:
                    await _send_in_pieces(scope, message, send)
                    return
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if not is_on() or scope["path"].startswith(_UNTRACED):
                try:
                    await self._app(scope, receive, send_with_headers)
                finally:
                    _record(scope, status, size, time.perf_counter() - started)
                return
            parent, link = await self._traces.parent_and_link(scope)
            with span_of(parent, scope["method"], "server", link=link) as span:
                try:
                    await self._app(scope, receive, send_with_headers)
                finally:
                    _describe_span(span, scope, status)
                    _record(scope, status, size, time.perf_counter() - started)


async def _send_in_pieces(scope: Any, message: Any, send: Send) -> None:
    """Send a large body in pieces as the client reads it; the server would buffer one message whole."""
    body, is_last = message["body"], not message.get("more_body", False)
    if (on_ready := scope.get(RESPONSE_READY)) is not None:
        on_ready(len(body))
    for start in range(0, len(body), _PIECE_BYTES):
        piece = body[start : start + _PIECE_BYTES]
        more = not is_last or start + _PIECE_BYTES < len(body)
        await send({"type": "http.response.body", "body": piece, "more_body": more})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _HEADER and _VALID_REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"req_{secrets.token_hex(12)}"


def _describe_span(span: Span | None, scope: Any, status: int) -> None:
    """Set name and attributes of a request's span by OpenTelemetry's conventions, once they are known."""
    if span is None:
        return
    route = scope.get("path_template") or "unmatched"
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    principal = scope.get("state", {}).get("principal")
    span.update_name(f"{method} {route}")
    attributes = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "ekabridge.request_id": request_id_of(scope),
        "ekabridge.tenant_id": principal.tenant_id if principal else None,
        "ekabridge.session_id": _session_id(scope),
    }
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if status >= 500:  # noqa: PLR2004
        fail(span, str(status))


def _record(scope: Any, status: int, size: int, seconds: float) -> None:
    """Count a request, and write its line of the access log: the event `request`."""
    # Logs and metrics hold the route's template; path and query may hold anything that a caller wrote.
    route = scope.get("path_template") or "unmatched"
    method = scope["method"] if scope["method"] in _METHODS else "other"
    requests, durations = _metrics_of(method, route, status)
    requests.inc()
    durations.observe(seconds)
    if route.startswith(("/health", "/metrics")):
        return
    principal = scope.get("state", {}).get("principal")
    log.info(
        "request",
        method=method,
        route=route,
        status=status,
        bytes=size,
        duration_ms=round(seconds * 1000, 1),
        tenant_id=principal.tenant_id if principal else None,
        key_id=principal.key_id if principal else None,
        session_id=_session_id(scope),
    )


@cache
def _metrics_of(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), SECONDS.labels(method, route)


def _session_id(scope: Any) -> str | None:
    """Return the session id of the path if it is well-formed; a caller may have written anything there."""
    session_id = (scope.get("path_params") or {}).get("session_id")
    return session_id if isinstance(session_id, str) and _SESSION_ID.fullmatch(session_id) else None
