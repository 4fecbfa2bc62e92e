"""Errors as clients receive them (RFC 9457): the form of a problem, the status and title of each code."""

from typing import Any

from msgspec import Struct

MEDIA_TYPE = "application/problem+json"

STATUS_OF_CODE = {
    "invalid_request": 400,
    "audio_empty": 400,
    "audio_truncated": 400,
    "destination_forbidden": 400,
    "idempotency_key_invalid": 400,
    "recording_too_long": 400,
    "recording_unreadable": 400,
    "upload_not_supported": 400,
    "unauthenticated": 401,
    "signature_invalid": 401,
    "forbidden": 403,
    "not_found": 404,
    "recording_not_kept": 404,
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
    "upload_offset_wrong": 409,
    "session_erased": 410,
    "upload_gone": 410,
    "tus_version_unsupported": 412,
    "body_too_large": 413,
    "chunk_too_large": 413,
    "recording_too_large": 413,
    "invalid_audio_format": 415,
    "idempotency_key_reused": 422,
    "upload_busy": 423,
    "rate_limited": 429,
    "headers_too_large": 431,
    "upload_checksum_wrong": 460,
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
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    423: "Locked",
    429: "Too many requests",
    431: "Request header fields too large",
    460: "Checksum mismatch",
    499: "Client closed the request",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}


class FieldError(Struct, frozen=True):
    """A refused field, as a dotted path, and the reason."""

    field: str
    message: str


class Problem(Struct, kw_only=True, omit_defaults=True):
    """A problem. `code` is stable; `request_id` finds the log line; `errors` comes with validation."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None
    missing: list[int] | None = None
    supported: list[str] | None = None
    seconds: float | None = None
    max_seconds: int | None = None
    vendor_status: int | None = None
    vendor_code: str | None = None


def make_problem(code: str, detail: str, request_id: str, **more: Any) -> Problem:
    """Make the problem of an error code; `more` are fields of a Problem that only some codes have."""
    status = STATUS_OF_CODE[code]
    return Problem(
        type=f"urn:ekabridge:error:{code}",
        title=TITLES[status],
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        **more,
    )
