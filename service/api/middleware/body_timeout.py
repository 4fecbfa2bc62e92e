"""Time limits for the bodies of requests; without them Litestar would wait for a slow client for ever.

Uploads of audio and webhooks have limits of their own (upload_buffer.py, unauthenticated_limits.py).
"""

import asyncio
from typing import Any

from litestar.types import Receive

from service.domain.errors import BodyTimeout, ClientDisconnected


def with_body_timeout(receive: Receive, *, idle_seconds: float, total_seconds: float) -> Receive:
    """Wrap `receive`: it raises BodyTimeout for a slow body, ClientDisconnected for an incomplete one.

    After the end of the body there is no limit: a handler may wait long for the client's disconnect.
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
            # Litestar would answer a disconnect with 500, as if the service had failed.
            raise ClientDisconnected("the client went away in the middle of the body")
        is_over = not message.get("more_body", False)
        return message

    return receive_with_timeout
