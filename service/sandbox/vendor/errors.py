"""The vendor's error bodies (docs/vendor.md#error-shapes)."""

from __future__ import annotations

from typing import Any

from service.sandbox.vendor.audio_formats import AUDIO_FORMATS

BUSINESS_ID = "onprem-workspace"


class StandInError(Exception):
    """An answer of the stand-in that is an error: its HTTP status and its JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def transaction_error(
    status: int, code: str, message: str, session_id: str, *, business_id: str = BUSINESS_ID
) -> StandInError:
    """Make the envelope with `txn_id` and `b_id`; in errors of the documents API `txn_id` is any id."""
    error = {"code": code, "message": message, "display_message": message}
    return StandInError(
        status, {"status": "failed", "error": error, "txn_id": session_id, "b_id": business_id}
    )


def not_found() -> StandInError:
    """404 for a path that the server does not have."""
    return StandInError(404, {"detail": "Not Found"})


def plain_error(status: int, code: str, message: str, details: dict[str, Any] | None = None) -> StandInError:
    """Make the short envelope `{"error": {code, message, details?}}`."""
    error: dict[str, Any] = {"code": code, "message": message}
    if details is not None:
        error["details"] = details
    return StandInError(status, {"error": error})


def field_error(name: str, message: str) -> StandInError:
    """400 for one field of a request body."""
    return plain_error(400, "BAD_REQUEST", f"Field 'body -> {name}': {message}")


def session_not_found(session_id: str) -> StandInError:
    """404 for an unknown session."""
    return transaction_error(404, "transaction_not_found", "Transaction not found", session_id)


def unexpected_error(session_id: str) -> StandInError:
    """500, which the vendor answers to audio names without a number, among others."""
    return transaction_error(500, "unexpected_error", "An unexpected error occurred", session_id)


def unsupported_audio(content_type: str) -> StandInError:
    """400 for a MIME type that is not on the list letter by letter (docs/vendor.md#mime-letters)."""
    message = f"Audio format '{content_type}' is not supported"
    details = {"provided_format": content_type, "supported_formats": list(AUDIO_FORMATS)}
    return plain_error(400, "invalid_audio_format", message, details)
