"""Answers requests that a stopping process cannot finish: 503 `shutting_down`, not a cut connection."""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.error_response import send_problem
from service.domain.errors import ShuttingDown
from service.http_server import on_deadline


class ShutdownResponse:
    """ASGI middleware that answers a request when the server's deadline passes or the server cancels it.

    The rows of a cancelled request are as after a lost response, so the client may repeat the call with the
    same Idempotency-Key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        is_started = is_abandoned = False

        async def send_unless_abandoned(message: Message) -> None:
            nonlocal is_started
            if not is_abandoned:
                is_started = True
                await send(message)

        async def abandon() -> None:
            nonlocal is_abandoned
            if not is_started and not is_abandoned:
                is_abandoned = True
                await send_problem(
                    scope, ShuttingDown("this process stops before it could finish; another one can"), send
                )

        on_deadline(scope, abandon)
        try:
            await self._app(scope, receive, send_unless_abandoned)
        except asyncio.CancelledError:
            # The server cancels a request only when the time for its shutdown is over.
            await abandon()
