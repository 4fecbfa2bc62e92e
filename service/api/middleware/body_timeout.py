"""How long a body may take that is no audio: the framework itself would wait for ever."""

import asyncio
from typing import Any

from litestar.types import Receive

from service.domain.errors import BodyTimeout, ClientDisconnected


def with_body_timeout(receive: Receive, *, idle_seconds: float, total_seconds: float) -> Receive:
    """Return a `receive` that raises BodyTimeout when the body takes too long, or ClientDisconnected.

    After the body's end it waits as long as it must: what comes then is that the client went away.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + total_seconds
    is_over = False

    async def receive_with_timeout() -> Any:
        nonlocal is_over
        if is_over:
            return await receive()
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + idle_seconds)):
                message: Any = await receive()
        except TimeoutError:
            raise BodyTimeout("the body came too slowly") from None
        if message["type"] != "http.request":
            # The framework would take it for a fault of ours.
            raise ClientDisconnected("the client went away in the middle of the body")
        is_over = not message.get("more_body", False)
        return message

    return receive_with_timeout
