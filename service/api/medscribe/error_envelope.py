"""Converts errors into the envelope of the MedScribe protocol for all paths that belong to it.

Every error first becomes a problem (service/api/problem_responses.py). This module then replaces its shape,
and where the protocol or EkaScribe differ, its status and code (docs/vendor.md#upload-errors,
docs/vendor.md#error-shapes).
"""

from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.types import ExceptionHandlersMap
from msgspec import UNSET

from schemas.medscribe import LoginRefused, VoiceError, VoiceErrorAnswer
from schemas.problems import Problem
from service.domain.errors import BridgeError, CallerMistake, NotFound, SessionErased, VendorRefused

LOGIN_PREFIX = "/connect-auth/"
VERSION_HEADER = "msa-version"
DISCOVERY_PATH = "/.well-known/medscribealliance"
_PREFIXES = ("/voice/", LOGIN_PREFIX, DISCOVERY_PATH)

# Our code → status and code of the protocol, for codes that differ.
MEDSCRIBE_ERRORS = {
    "session_ended": (400, "session_ended"),
    "session_expired": (410, "session_expired"),
    "session_exists": (409, "txn_already_initialized"),
    "invalid_audio_format": (400, "invalid_audio_format"),
    "rate_limited": (429, "rate_limit_exceeded"),
}
# EkaScribe's refusals that the client can mend, because the fault is in its request: EkaScribe's status →
# ours. All others, such as a refusal of our own credentials, stay 502.
_CLIENT_ERROR_STATUSES = {400: 400, 409: 409, 413: 413, 422: 400}
# Our name of a field → the protocol's name.
_FIELDS = {
    "upload": "upload_type",
    "mode": "session_mode",
    "languages": "language_hint",
    "metadata": "additional_data",
    "patient": "patient_details",
    "patient.id": "patient_details.oid",
    "patient.name": "patient_details.name",
}

Handler = Callable[[Request[Any, Any, Any], Any], Response[Problem]]
AnyResponse = Response[Any]


def is_medscribe_path(path: str) -> bool:
    """Return whether a path belongs to the protocol, even if no route matches it."""
    return path == "/voice" or path.startswith(_PREFIXES)


def as_medscribe_error(error: CallerMistake, status: int, code: str, **details: Any) -> CallerMistake:
    """Set the status and code that the protocol demands for an error of one particular route."""
    error.extra |= {"protocol": (status, code), "protocol_details": details}
    return error


def with_medscribe_errors(handlers: ExceptionHandlersMap) -> ExceptionHandlersMap:
    """Wrap exception handlers so that errors on the protocol's paths use its envelope."""
    return {error_type: _choose_by_path(handler) for error_type, handler in handlers.items()}


def _choose_by_path(handler: Handler) -> Callable[[Request[Any, Any, Any], Any], AnyResponse]:
    def respond(request: Request[Any, Any, Any], error: Any) -> AnyResponse:
        response = handler(request, error)
        if is_medscribe_path(request.scope["path"]):
            return _to_medscribe_response(request, error, response)
        return response

    return respond


def _to_medscribe_response(
    request: Request[Any, Any, Any], error: Exception, response: Response[Problem]
) -> AnyResponse:
    problem = response.content
    status, code, message = problem.status, problem.code, problem.detail
    extra = error.extra if isinstance(error, BridgeError) else {}
    if "protocol" in extra:
        status, code = extra["protocol"]
    elif isinstance(error, VendorRefused) and error.status in _CLIENT_ERROR_STATUSES:
        status, code = _CLIENT_ERROR_STATUSES[error.status], error.vendor_code or "bad_request"
    elif isinstance(error, NotFound | SessionErased):
        status, code, message = 404, "session_not_found", "Session not found"
    elif code in MEDSCRIBE_ERRORS:
        status, code = MEDSCRIBE_ERRORS[code]
    if problem.errors:
        field = problem.errors[0]
        message = f"Field 'body -> {_FIELDS.get(field.field, field.field)}': {field.message}"
    headers = dict(response.headers)
    if request.scope["path"].startswith(LOGIN_PREFIX):
        return Response(LoginRefused(code=status, error=message), status_code=status, headers=headers)
    envelope = VoiceErrorAnswer(
        error=VoiceError(code=code, message=message, details=_details(request, problem, extra)),
        detail=code if problem.code == "unauthenticated" else UNSET,
    )
    return Response(envelope, status_code=status, headers=headers)


def _details(request: Request[Any, Any, Any], problem: Problem, extra: dict[str, Any]) -> dict[str, Any]:
    session_id = request.scope.get("path_params", {}).get("session_id")
    details = {
        "request_id": problem.request_id,
        "session_id": session_id,
        "missing": problem.missing,
        "supported_formats": problem.supported,
        "vendor_status": problem.vendor_status,
        "vendor_code": problem.vendor_code,
    } | extra.get("protocol_details", {})
    return {name: value for name, value in details.items() if value is not None}
