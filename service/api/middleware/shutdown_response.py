"""The answer for a request that a stopping process cannot finish: told to come again, never cut."""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.error_response import send_problem
from service.domain.errors import ShuttingDown
from service.http_server.graceful_shutdown import on_deadline


class ShutdownResponse:
    """Wraps the application: a request that is cancelled, or would not even end then, is answered here.

    What is cancelled leaves its rows as after a call whose answer was lost: the same call, with the same
    Idempotency-Key, may be made again.
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
            # Only a server whose time is over cancels a request.
            await abandon()
