"""From the vendor's wire to our terms: states, documents, times, and its three error bodies."""

import re
from datetime import UTC, datetime
from typing import Literal

import msgspec

from schemas.eka import SessionAnswer, TemplateResult
from service.domain.ids import TemplateId
from service.domain.records import VendorDocument, VendorResult, VendorState

_NOT_ENDED = frozenset({"initialized", "initialised", "created", "recording"})
_SUCCESS = frozenset({"success", "completed"})
_FAILED = frozenset({"failed", "failure", "error"})
# Words joined by underscores: anything else might be somebody's name.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+){1,8}")


def read_session(status_code: int, answer: SessionAnswer) -> VendorResult:
    """Read Get Session's answer of 200, 202, 206 or 410: the HTTP status is the signal (seed 001)."""
    return VendorResult(
        state=_state(status_code, answer.status),
        transcript=answer.transcript or None,
        documents=_documents(answer.templates or []),
        model_used=answer.model_used,
        language_detected=answer.language_detected,
        upload_url=answer.upload_url if isinstance(answer.upload_url, str) else None,
        expires_at=read_time(answer.expires_at),
    )


def _state(status_code: int, status: str | None) -> VendorState:
    if status_code == 410 or status == "expired":  # noqa: PLR2004
        return "expired"
    if status_code == 202:  # noqa: PLR2004
        return "open" if status in _NOT_ENDED else "processing"
    if status in {"failed", "cancelled"}:  # the latter at the vendor itself: what we cancel is not asked for
        return "failed"
    return "partial" if status_code == 206 or status == "partial" else "completed"  # noqa: PLR2004


def _documents(templates: list[dict[str, TemplateResult | None]]) -> list[VendorDocument]:
    found = []
    for entry in templates:
        for template_id, result in entry.items():
            made = result or TemplateResult()
            found.append(
                VendorDocument(
                    template_id=TemplateId(template_id),
                    upstream_id=made.document_id or "",
                    type=made.document_type,
                    status=_document_status(made),
                    data=made.data,
                )
            )
    return found


def _document_status(made: TemplateResult) -> Literal["success", "failed", "pending"]:
    if made.status in _SUCCESS or (made.status is None and made.data is not None):
        return "success"
    return "failed" if made.status in _FAILED else "pending"


def read_time(text: str | None) -> datetime | None:
    """Read an ISO 8601 time; one without a zone is UTC, one that is none, or beyond the calendar, is None."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def read_error_code(body: bytes) -> str | None:
    """Return the code of an error body, whichever of the three it is; never its message.

    `{"detail": …}`, `{"error": {code, message}}` and `{"status": "failed", "error": {…}, txn_id, b_id}`
    occur (facts.md, Sessions), and `{code: int, error: str}` at login. Messages may hold anything, patient
    data included, so none is read.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(decoded, dict):
        return None
    error = decoded.get("error")
    code = error.get("code") if isinstance(error, dict) else decoded.get("detail")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None
