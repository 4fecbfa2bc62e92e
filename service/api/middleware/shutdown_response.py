"""The answer for a request that a stopping process cannot finish: told to come again, never cut."""

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.error_response import tell
from service.domain.errors import ShuttingDown
from service.http_server import on_deadline


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
        is_begun = is_given_up = False

        async def send_unless_given_up(message: Message) -> None:
            nonlocal is_begun
            if not is_given_up:
                is_begun = True
                await send(message)

        async def give_up() -> None:
            nonlocal is_given_up
            if not is_begun and not is_given_up:
                is_given_up = True
                await tell(
                    scope, ShuttingDown("this process stops before it could finish; another one can"), send
                )

        on_deadline(scope, give_up)
        try:
            await self._app(scope, receive, send_unless_given_up)
        except asyncio.CancelledError:
            # Only a server whose time is over cancels a request.
            await give_up()
