"""Translates EkaScribe's answers to Get Session into states, documents and warnings; reads error bodies.

Decoding is lenient on purpose: a field that is missing, null, new or of another type must not lose a finished
dictation. Where a document has a status, the status decides, and not the presence of other fields
(docs/vendor.md#decide-by-status).
"""

import re
from typing import Any

import msgspec
from msgspec import UNSET

from schemas.eka import SessionFacts
from schemas.results import WarningInfo
from service.domain.ids import TemplateId
from service.domain.results.models import (
    DocumentAnnotations,
    VendorDocument,
    VendorDocumentStatus,
    VendorResult,
    VendorState,
)
from service.eka.fields import Fields, note_unknown
from service.eka.lenient_json import decode_object

_OK, _ACCEPTED, _PARTIAL, _GONE = 200, 202, 206, 410
_OPEN = frozenset({"initialized", "initialised", "created", "recording"})
# The vendor's word for a session's status → the state that the domain acts on (record_answer in
# service/domain/results/recording.py). In an unfiltered answer `failed` ends the session as failed with the
# code `vendor_failed`, and `expired` ends it as expired; in a filtered one they only call for an unfiltered
# answer.
_SESSION_STATES: dict[str, VendorState] = {
    **dict.fromkeys(_OPEN, "open"),
    "processing": "processing",
    "in-progress": "processing",
    "completed": "completed",
    "success": "completed",
    "partial": "partial",
    "partial_success": "partial",
    "failed": "failed",
    "failure": "failed",
    "cancelled": "failed",  # by the vendor itself: no result is requested of a session that we cancelled
    "expired": "expired",
}
PARTIAL_SUCCESS = "partial_success"
# Stands for a status that is no word at all, such as an object; `Fields` has counted and logged it.
_NO_WORD = "?"
_DOCUMENT_STATUSES: dict[str, VendorDocumentStatus] = {
    "success": "success",
    "completed": "success",
    PARTIAL_SUCCESS: "success",
    "failed": "failed",
    "failure": "failed",
    "error": "failed",
    "pending": "pending",
    "in-progress": "pending",
    "in_progress": "pending",
    "processing": "pending",
    "queued": "pending",
}
# Words joined by underscores: any other text might be a person's name.
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+){1,8}")
_MAX_DOCUMENTS = 500
_MAX_REASONS = 20
_MAX_MESSAGE_CHARACTERS = 1000


def read_session(status_code: int, body: bytes) -> VendorResult:
    """Read the result from an answer to Get Session. Raises ValueError unless the body is a JSON object."""
    return read_answer(status_code, body)[0]


def read_answer(status_code: int, body: bytes) -> tuple[VendorResult, SessionFacts]:
    """Read the result and further facts from an answer to Get Session of 200, 202, 206 or 410.

    The HTTP status is the signal (docs/vendor.md#status-codes). Raises ValueError unless the body is a JSON
    object.
    """
    values, is_well_formed = decode_object(body)
    odd: list[str] = [] if is_well_formed else ["get"]
    if not is_well_formed:
        note_unknown("get", None)
    fields = Fields(values, "get", odd)
    documents = _documents(fields)
    result = VendorResult(
        state=_state(status_code, fields, has_content=bool(documents) or bool(values.get("transcript"))),
        transcript=fields.text("transcript") or None,
        documents=documents,
        model_used=fields.identifier("model_used"),
        language_detected=fields.identifier("language_detected"),
        upload_url=values["upload_url"] if isinstance(values.get("upload_url"), str) else None,
        expires_at=fields.timestamp("expires_at"),
        warnings=_reasons(fields, "processing_errors", "processing_error"),
    )
    facts = SessionFacts(**{name: values[name] for name in SessionFacts.__struct_fields__ if name in values})
    return (_with_odd_fields(result, odd) if odd else result), facts


def _with_odd_fields(result: VendorResult, odd: list[str]) -> VendorResult:
    warning = WarningInfo(
        code="vendor_field_unexpected",
        message="ekabridge did not expect the type of these fields of EkaScribe's answer: "
        + ", ".join(sorted(set(odd))),
    )
    return msgspec.structs.replace(result, warnings=[*result.warnings, warning])


def _state(status_code: int, fields: Fields, *, has_content: bool) -> VendorState:
    word = _status_word(fields)
    if status_code == _GONE:
        return "expired"
    known = _SESSION_STATES.get(word or "")
    if word and known is None and word != _NO_WORD:
        note_unknown("get.status", word)
    if status_code == _ACCEPTED:
        return "open" if known == "open" else "processing"
    if status_code == _PARTIAL:
        return known if known in {"failed", "expired"} else "partial"
    if not word:
        return "completed" if has_content else "unknown"
    return known or "unknown"


def _status_word(fields: Fields) -> str | None:
    """Return the status, or None if the object has none; one of an unexpected type is an unknown word."""
    word = fields.text("status")
    return _NO_WORD if word is None and fields.values.get("status") is not None else word


def _documents(fields: Fields) -> list[VendorDocument]:
    entries = _entries(fields.values.get("templates"), fields)
    if len(entries) > _MAX_DOCUMENTS:
        # One transaction stores all documents and locks the session's row meanwhile.
        fields.note("templates.count", None)
    return [_document(template_id, entry, fields) for template_id, entry in entries[:_MAX_DOCUMENTS]]


def _entries(templates: Any, fields: Fields) -> list[tuple[str, Any]]:
    """Return (template id, entry) of a list of one-key objects, or of a map; one template may come twice."""
    if templates is None:
        return []
    if isinstance(templates, dict):
        templates = [templates]
    if not isinstance(templates, list):
        fields.note("templates", templates)
        return []
    found: list[tuple[str, Any]] = []
    for item in templates:
        if not isinstance(item, dict):
            fields.note("templates", item)
        elif isinstance(item.get("template_id"), str):
            found.append((item["template_id"], item))
        else:
            for template_id, entry in item.items():
                entries = entry if isinstance(entry, list) else [entry]
                found += [(template_id, each) for each in entries]
    return found


def _document(template_id: str, entry: Any, session: Fields) -> VendorDocument:
    if entry is not None and not isinstance(entry, dict):
        session.note("templates.entry", entry)
        entry = {"data": entry}
    fields = Fields(entry or {}, "get.templates", session.odd)
    word, data = _status_word(fields), fields.values.get("data")
    status = _document_status(word, data)
    errors = _reasons(fields, "errors", "vendor_error")
    warnings = _reasons(fields, "warnings", "vendor_warning")
    if word == PARTIAL_SUCCESS:
        message = "EkaScribe could make only a part of this document"
        warnings = [WarningInfo(code="document_partial", message=message), *warnings]
    first = errors[0].vendor_code if errors else UNSET
    vendor_code = word if status == "unknown" and word != _NO_WORD else (first or None)
    fhir = fields.values.get("fhir")
    url = fields.values.get("presigned_url")
    return VendorDocument(
        template_id=TemplateId(template_id),
        upstream_id=fields.identifier("document_id") or "",
        type=fields.identifier("document_type"),
        status=status,
        data=data,
        annotations=DocumentAnnotations(
            warnings=warnings if status == "failed" else [*warnings, *errors],
            vendor_code=(vendor_code or None) if status != "success" else None,
            fhir=UNSET if fhir is None else fhir,
        ),
        content_url=url if isinstance(url, str) and url else None,
    )


def _document_status(word: str | None, data: Any) -> VendorDocumentStatus:
    if word is None:
        return "pending" if is_empty(data) else "success"
    status = _DOCUMENT_STATUSES.get(word)
    if status is None:
        if word != _NO_WORD:
            note_unknown("get.templates.status", word)
        return "unknown"
    return "empty" if status == "success" and is_empty(data) else status


def is_empty(data: Any) -> bool:
    """Return whether a document's content holds no text, number or truth value anywhere."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif value is not None and not (isinstance(value, str) and not value.strip()):
            return False
    return True


def _reasons(fields: Fields, name: str, code: str) -> list[WarningInfo]:
    """Read a list of EkaScribe's `{type, code, msg}` or `{type, message}`.

    The second form concerns the session and not a document (docs/vendor.md#processing-errors).
    """
    found = []
    for values in fields.objects(name)[:_MAX_REASONS]:
        reason = Fields(values, f"get.{name}", fields.odd)
        message = reason.text("msg") or reason.text("message") or ""
        found.append(
            WarningInfo(
                code=code,
                message=message[:_MAX_MESSAGE_CHARACTERS],
                vendor_code=reason.identifier("code") or reason.identifier("type") or UNSET,
            )
        )
    return found


def read_error_code(body: bytes) -> str | None:
    """Return the code of an error body in any of its shapes; never its message.

    `{"detail": …}`, `{"error": {code, message}}`, `{"status": "failed", "error": {…}, txn_id, b_id}` and
    `{"status": "failed", "error": "…"}` occur (docs/vendor.md#error-shapes), and `{code: int, error: str}` at
    login (docs/vendor.md#login-client). Messages may hold anything, patient data included, so none is read.
    """
    try:
        decoded, _ = decode_object(body)
    except (ValueError, RecursionError):
        return None
    error = decoded.get("error")
    code = error.get("code") if isinstance(error, dict) else decoded.get("detail")
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None
