"""The middleware around the stand-in: it writes the journal and plays the faults."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.sandbox.vendor.faults import FaultPlayer
from service.sandbox.vendor.journal import Call
from service.sandbox.vendor.state import VendorState

CONTROL_PREFIX = "/_control"
_VARY = (
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
    b"Access-Control-Request-Private-Network"
)


@dataclass
class _CountedReceive:
    """ASGI `receive` that counts body bytes; `inner` keeps the way to the transport open."""

    inner: Receive
    call: Call

    async def __call__(self) -> Any:
        message = await self.inner()
        if message["type"] == "http.request":
            self.call.body_bytes += len(message.get("body", b""))
        elif message["type"] == "websocket.receive":
            self.call.body_bytes += len(message.get("bytes") or message.get("text") or b"")
        elif message["type"] == "http.disconnect" and self.call.status is None:
            self.call.client_left = True
        return message


@dataclass
class _WatchedSend:
    """ASGI `send` that notes the status."""

    inner: Send
    call: Call

    async def __call__(self, message: Message) -> None:
        if self.call.client_left:
            return
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            self.call.status = message["status"]
        elif message["type"] == "websocket.accept":
            self.call.status = 101
        elif message["type"] == "websocket.close" and self.call.status is None:
            self.call.status = 403
        await self.inner(message)


async def _answer_preflight(scope: Scope, _: Receive, send: Send) -> None:
    """Allow every origin, with credentials, as the on-prem servers do (docs/vendor.md#client-cors)."""
    asked = dict(scope["headers"])
    headers = [
        (b"vary", _VARY),
        (b"access-control-allow-methods", b"GET, POST, PUT, OPTIONS, PATCH, DELETE"),
        (b"access-control-max-age", b"86400"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-allow-origin", asked.get(b"origin", b"")),
        (b"access-control-allow-headers", asked.get(b"access-control-request-headers", b"")),
        (b"content-type", b"text/plain; charset=utf-8"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"OK", "more_body": False})


@dataclass
class JournalMiddleware:
    """ASGI middleware around the vendor that writes the journal and plays the faults, control calls aside."""

    app: ASGIApp
    vendor: VendorState

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one ASGI call through."""
        if scope["path"].startswith(CONTROL_PREFIX):
            await self.app(scope, receive, send)
            return
        call = self.vendor.journal.open(scope)
        fault = self.vendor.faults.pick(call.method, call.path, call.query)
        app, started = self.app, time.perf_counter()
        if call.method == "OPTIONS" and not self.vendor.settings.is_hosted:
            app = _answer_preflight
        scope["state"] = {**(scope.get("state") or {}), "sandbox_receive": receive}
        if fault is not None:
            call.fault = f"{fault.mode}/{fault.when}"
            app = FaultPlayer(fault, self.vendor.faults, app).play
        try:
            await app(scope, _CountedReceive(receive, call), _WatchedSend(send, call))
        finally:
            state: dict[str, Any] = scope.get("state") or {}
            call.session_id = state.get("sandbox_session_id", call.session_id)
            call.duration_ms = (time.perf_counter() - started) * 1000
            call.done = True
