"""Judges an answer's meaning for one template's documents, and how long that verdict stays in doubt.

A filtered answer describes one document and can be wrong about its session
(docs/vendor.md#filtered-document). Only the unfiltered answer gives the reason of a failure
(docs/vendor.md#failure-reason), and the two can contradict each other (docs/vendor.md#overdue-documents). So
the unfiltered answer must confirm each verdict other than a plain success with content, some for a while,
before an event reports it to the EMR.
"""

from collections.abc import Sequence
from typing import assert_never

from service.domain.results.models import VendorDocument, VendorDocumentStatus, VendorState, Verdict

OVER: frozenset[VendorState] = frozenset({"completed", "partial"})

# `failed`: both answers report a failure, or one gives its reason. `unexplained`: only the unfiltered answer
# reports a failure, without a reason, while the filtered answer says that the vendor still makes the
# document. `empty`: a success without content (docs/vendor.md#empty-success). `unknown`: a status that this
# service does not know (docs/vendor.md#unknown-status). `absent`: not listed.
_CONFIRMED_AFTER_SECONDS: dict[Verdict, float] = {
    "failed": 0.0,
    "absent": 10.0,
    "unexplained": 60.0,
    "empty": 600.0,
    "unknown": 600.0,
}
# If a template has several documents, the first of these statuses decides: a pending document may still come,
# and an unknown status stays in doubt for longer than a plain failure.
_DECIDING: tuple[VendorDocumentStatus, ...] = ("pending", "unknown", "empty", "failed", "success")
ERROR_CODES: dict[Verdict, str] = {
    "failed": "template_failed",
    "unexplained": "template_failed",
    "empty": "document_empty",
    "unknown": "document_undecided",
    "absent": "document_missing",
}


def is_good(documents: Sequence[VendorDocument]) -> bool:
    """Return whether there are documents, each of them a success with content."""
    return bool(documents) and all(each.status == "success" for each in documents)


def judge_filtered(state: VendorState, documents: Sequence[VendorDocument]) -> Verdict | None:
    """Judge the answer to a call for one template; None if it decides nothing or all documents are good."""
    match state:
        case "failed":
            return "failed"
        case "no_document":
            return "absent"
        case "unknown":
            return _judge(documents) or "unknown"
        case "completed" | "partial":
            return _judge(documents) if documents else "absent"
        case "open" | "processing" | "missing" | "expired":
            return None
        case _:
            assert_never(state)


def judge_unfiltered(
    state: VendorState, documents: Sequence[VendorDocument], said: Verdict | None
) -> Verdict | None:
    """Judge an unfiltered answer for one template; `said` is the verdict of the filtered answer.

    None: the vendor still makes the documents, or all are good. A final answer can omit a document that the
    vendor still makes, so an unlisted document is absent only if the filtered answer had none either.
    """
    if not documents:
        return said if said in {"failed", "absent"} and state in OVER else None
    verdict = _judge(documents)
    if verdict != "failed" or said == "failed":
        return verdict
    has_reason = any(each.annotations.vendor_code for each in documents if each.status == "failed")
    return "failed" if has_reason else "unexplained"


def seconds_left(verdict: Verdict, seconds: float | None) -> float:
    """Return for how many more seconds a verdict that has stood for `seconds` stays in doubt, at least 0."""
    return max(0.0, _CONFIRMED_AFTER_SECONDS[verdict] - (seconds or 0.0))


def _judge(documents: Sequence[VendorDocument]) -> Verdict | None:
    status = min((each.status for each in documents), key=_DECIDING.index, default=None)
    match status:
        case "pending" | "success" | None:
            return None
        case "unknown" | "empty" | "failed":
            return status
        case _:
            assert_never(status)
