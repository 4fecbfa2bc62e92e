"""Errors as the EMR sees them: one table from code to HTTP status, one form for all."""

import math
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from schemas.problems import MEDIA_TYPE, FieldError, Problem
from service.api.field_errors import field_error
from service.api.middleware.request_context import request_id_of
from service.domain.errors import BridgeError, Overloaded, RateLimited, VendorUnreachable
from service.observability.logging import failure

log = structlog.get_logger()

STATUS_OF_CODE = {
    "invalid_request": 400,
    "audio_empty": 400,
    "audio_truncated": 400,
    "destination_forbidden": 400,
    "idempotency_key_invalid": 400,
    "upload_not_supported": 400,
    "unauthenticated": 401,
    "signature_invalid": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "header_timeout": 408,
    "session_ended": 409,
    "session_expired": 409,
    "session_not_ready": 409,
    "session_exists": 409,
    "session_not_finished": 409,
    "stream_busy": 409,
    "wrong_upload_type": 409,
    "chunk_conflict": 409,
    "templates_fixed": 409,
    "audio_incomplete": 409,
    "audio_missing": 409,
    "account_in_use": 409,
    "delivery_settled": 409,
    "delivery_superseded": 409,
    "delivery_already_filed": 409,
    "destination_disabled": 409,
    "too_many_destinations": 409,
    "idempotency_in_progress": 409,
    "session_erased": 410,
    "body_too_large": 413,
    "chunk_too_large": 413,
    "invalid_audio_format": 415,
    "idempotency_key_reused": 422,
    "rate_limited": 429,
    "headers_too_large": 431,
    "client_disconnected": 499,
    "internal_error": 500,
    "vendor_error": 502,
    "vendor_unavailable": 503,
    "shutting_down": 503,
    "store_unavailable": 503,
    "too_many_watchers": 503,
    "overloaded": 503,
    "vendor_timeout": 504,
}

TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Request header fields too large",
    499: "Client closed the request",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}

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
    status = STATUS_OF_CODE[code]
    problem = Problem(
        type=f"urn:ekabridge:error:{code}",
        title=TITLES[status],
        status=status,
        detail=detail,
        code=code,
        request_id=request_id_of(scope),
        **{name: value for name, value in more.items() if name in Problem.__struct_fields__},
    )
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


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
        headers["Connection"] = "close"  # what of the body still comes would be taken for the next request
    elif status == 409 and error.retryable:  # noqa: PLR2004
        headers["Retry-After"] = "1"  # what is in the way is over in a moment
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
    """Answer for what the framework refuses by itself."""
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
    """Answer for a bug: logged by class and place, told without its message."""
    log.error("request_failed", request_id=request_id_of(request.scope), **failure(error))
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
