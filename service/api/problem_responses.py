"""Makes the response to an error, a problem of RFC 9457.

The status and the title of each code are a table in schemas/problems.py.
"""

import math
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from schemas.problems import MEDIA_TYPE, STATUS_OF_CODE, TITLES, FieldError, Problem, make_problem
from service.api.field_errors import field_error
from service.api.middleware.request_context import request_id_of
from service.domain.errors import BridgeError, Overloaded, RateLimited, VendorUnreachable
from service.observability.logging import describe_failure

log = structlog.get_logger()

_CODE_OF_STATUS = {401: "unauthenticated", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_RETRY_AFTER_SECONDS = 5


def documented(*statuses: int, by_key: bool = True) -> dict[int, ResponseSpec]:
    """Return what the OpenAPI document says of these statuses, and that calls by key are limited."""
    if by_key:
        statuses = tuple(sorted({*statuses, 429}))
    return {
        status: ResponseSpec(
            data_container=Problem, description=TITLES[status], media_type=MEDIA_TYPE, generate_examples=False
        )
        for status in statuses
    }


def problem_response(
    scope: Any,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response[Problem]:
    """Make the answer for a code."""
    fields = {name: value for name, value in more.items() if name in Problem.__struct_fields__}
    problem = make_problem(code, detail, request_id_of(scope), **fields)
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def on_bridge_error(request: Request[Any, Any, Any], error: BridgeError) -> Response[Problem]:
    """Answer for any of our own errors."""
    return bridge_problem(request.scope, error)


def bridge_problem(scope: Any, error: BridgeError) -> Response[Problem]:
    """Make the answer for any of our own errors, for a request or for a WebSocket that is not opened."""
    headers = {}
    status = STATUS_OF_CODE[error.code]
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:  # noqa: PLR2004
        asked = error.retry_after_seconds if isinstance(error, VendorUnreachable | Overloaded) else None
        headers["Retry-After"] = str(max(1, round(asked or _RETRY_AFTER_SECONDS)))
    if status == 408:  # noqa: PLR2004
        headers["Connection"] = "close"  # the rest of the body would be read as the next request
    elif status == 409 and error.retryable:  # noqa: PLR2004
        headers["Retry-After"] = "1"  # the conflict is over in a moment
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    more = dict(error.extra)
    if "field" in more:
        more["errors"] = [FieldError(more.pop("field"), error.detail)]
    return problem_response(scope, error.code, error.detail, headers=headers, **more)


def on_validation_error(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    """Answer for a body or a parameter that breaks its schema, each field named."""
    found = error.extra if isinstance(error.extra, list) else []
    errors = [
        field_error(str(entry.get("message", "is not valid")), str(entry.get("key") or ""))
        for entry in found
        if isinstance(entry, dict)
    ]
    return problem_response(
        request.scope, "invalid_request", "the request breaks its schema; see `errors`", errors=errors
    )


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Answer for a request that the framework refuses by itself."""
    code = _CODE_OF_STATUS.get(error.status_code)
    if code is None:
        code = "invalid_request" if error.status_code < 500 else "internal_error"  # noqa: PLR2004
    details = {
        "not_found": "there is nothing at this address",
        "method_not_allowed": "this address does not take this method",
        "body_too_large": "the body is too large for this address",
        "invalid_request": "the body is not valid JSON, or a parameter cannot be read",
        "unauthenticated": "an API key is needed",
        "internal_error": "something went wrong on our side; the request id finds it in our log",
    }
    return problem_response(request.scope, code, details[code], headers=dict(error.headers or {}))


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer for a bug of ours: the log has its class and line, and nobody gets its message."""
    log.error("request_failed", request_id=request_id_of(request.scope), **describe_failure(error))
    return problem_response(
        request.scope,
        "internal_error",
        "something went wrong on our side; the request id finds it in our log",
    )


HANDLERS: ExceptionHandlersMap = {
    BridgeError: on_bridge_error,
    ValidationException: on_validation_error,
    HTTPException: on_http_exception,
    Exception: on_unexpected,
}
