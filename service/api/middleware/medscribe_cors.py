"""CORS for the MedScribe protocol: only pages of the origins in VOICE_ORIGINS may call it from a browser.

Official browser clients send credentials, and a browser then rejects `Access-Control-Allow-Origin: *`, so the
response repeats the page's own origin. Repeating every origin would let any page that a doctor opens call the
protocol with credentials that the browser adds by itself; `null`, the origin of sandboxed frames and local
files, would allow the same. Neither is ever allowed.

Litestar's own CORS would apply to the whole application; /v1 is for backends and has no CORS at all.
"""

from collections.abc import Iterable
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from schemas.medscribe import PROTOCOL_VERSION
from service.api.medscribe.error_envelope import VERSION_HEADER, is_medscribe_path
from service.api.rate_limit import FIELDS

_ALLOWED_METHODS = b"GET, POST, PATCH, OPTIONS"
# The headers that official clients send, in the order of our response (docs/vendor.md#client-cors).
_ALLOWED_HEADERS = ("authorization", "content-type", "flavour", "x-timezone", VERSION_HEADER)
_EXPOSED_HEADERS = ", ".join(("etag", "retry-after", "x-request-id", VERSION_HEADER, *FIELDS)).encode()
# Every response names the version of the protocol (specification, section 3.3).
_PROTOCOL_VERSION = (VERSION_HEADER.encode(), PROTOCOL_VERSION.encode())
_MAX_AGE_SECONDS = b"7200"


class MedscribeCors:
    """ASGI middleware that answers preflights and adds CORS headers to every response, errors included."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(each.encode() for each in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP or not is_medscribe_path(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        origin = headers.get(b"origin")
        if origin not in self._origins:
            origin = None
        if is_preflight and b"origin" in headers:
            await _answer_preflight(origin, headers.get(b"access-control-request-headers", b""), send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"vary", b"Origin"), _PROTOCOL_VERSION]
                if origin is not None:
                    added += _origin_headers(origin)
                    added.append((b"access-control-expose-headers", _EXPOSED_HEADERS))
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _origin_headers(origin: bytes) -> list[tuple[bytes, bytes]]:
    # A browser that sends credentials accepts only its own origin here, never `*`.
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
    ]


async def _answer_preflight(origin: bytes | None, requested: bytes, send: Send) -> None:
    if origin is None:
        await _send_empty(403, [(b"vary", b"Origin")], send)
        return
    names = {name.strip().lower() for name in requested.decode("latin-1").split(",")}
    allowed = ", ".join(name for name in _ALLOWED_HEADERS if name in names)
    await _send_empty(
        204,
        [
            *_origin_headers(origin),
            (b"vary", b"Origin"),
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-allow-headers", allowed.encode()),
            (b"access-control-max-age", _MAX_AGE_SECONDS),
        ],
        send,
    )


async def _send_empty(status: int, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    start: Any = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
