"""Answers that are given outside the framework, where a request was not let in or is not let go on."""

from typing import Any

import msgspec
from litestar import Request
from litestar.types import Send

from schemas.problems import MEDIA_TYPE
from service.api.medscribe.error_envelope import with_medscribe_errors
from service.api.problems import HANDLERS
from service.domain.errors import BridgeError

_TO_RESPONSE: Any = with_medscribe_errors(HANDLERS)[BridgeError]


async def send_problem(scope: Any, error: BridgeError, send: Send) -> None:
    """Answer a request with the same words, in the same form, as a door would."""
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
