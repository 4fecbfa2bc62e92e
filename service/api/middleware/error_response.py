"""Sends error responses from middleware, for requests that never reach Litestar or that it cannot finish."""

from typing import Any

import msgspec
from litestar import Request
from litestar.types import Send

from schemas.problems import MEDIA_TYPE
from service.api.medscribe.error_envelope import with_medscribe_errors
from service.api.problem_responses import HANDLERS
from service.domain.errors import BridgeError

_TO_RESPONSE: Any = with_medscribe_errors(HANDLERS)[BridgeError]


async def send_problem(scope: Any, error: BridgeError, send: Send) -> None:
    """Send an error exactly as Litestar would send it if a route handler had raised it."""
    response = _TO_RESPONSE(Request(scope), error)
    body = msgspec.json.encode(response.content)
    headers = {
        "content-type": MEDIA_TYPE if response.media_type == MEDIA_TYPE else "application/json",
        "content-length": str(len(body)),
        **{name.lower(): str(value) for name, value in response.headers.items()},
    }
    start: Any = {
        "type": "http.response.start",
        "status": response.status_code,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    end: Any = {"type": "http.response.body", "body": body, "more_body": False}
    await send(end)
