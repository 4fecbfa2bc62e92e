"""Error responses to requests that the application never sees, in the form of the application's problems."""

from uuid import uuid4

import msgspec
import structlog
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from schemas.problems import MEDIA_TYPE, make_problem

log = structlog.get_logger()

REFUSED = Counter("ekabridge_http_refused", "Requests refused before they were whole.", ("code",))

_RETRY_AFTER_SECONDS = {"overloaded": 2}


def count_refusal(code: str) -> None:
    """Count a request that the server refused, with or without a response."""
    REFUSED.labels(code).inc()


def error_response(code: str, detail: str) -> bytes:
    """Return the whole response, which announces that the connection closes."""
    request_id = f"req_{uuid4().hex[:24]}"
    problem = make_problem(code, detail, request_id)
    log.info("request_refused", code=code, status=problem.status, request_id=request_id)
    body = msgspec.json.encode(problem)
    headers = [
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "x-content-type-options: nosniff",
        "connection: close",
    ]
    if code in _RETRY_AFTER_SECONDS:
        headers.append(f"retry-after: {_RETRY_AFTER_SECONDS[code]}")
    return STATUS_LINE[problem.status] + "\r\n".join([*headers, "", ""]).encode() + body
