"""Judges what an answer of the vendor means for one template's documents, and how long that is doubted.

A filtered answer speaks of one document and can be wrong about its session
(docs/vendor.md#filtered-document). The reason of a failure stands in the unfiltered answer only
(docs/vendor.md#failure-reason), and the two contradict each other (docs/vendor.md#overdue-documents). So
everything but a plain success with content is a verdict that the unfiltered answer must confirm, some for a
while, before an EMR is told.
"""

from collections.abc import Sequence
from typing import assert_never

from service.domain.models import VendorDocument, VendorDocumentStatus, VendorState, Verdict

OVER: frozenset[VendorState] = frozenset({"completed", "partial"})

# `failed`: the vendor says so, and both answers agree or a reason is given. `unexplained`: only the
# unfiltered answer says so and gives no reason, while the filtered one says that the document is still
# being made. `empty`: called a success, with nothing in it (docs/vendor.md#empty-success). `unknown`: a
# status that is new on the wire (docs/vendor.md#unknown-status). `absent`: not listed.
_CONFIRMED_AFTER_SECONDS: dict[Verdict, float] = {
    "failed": 0.0,
    "absent": 10.0,
    "unexplained": 60.0,
    "empty": 600.0,
    "unknown": 600.0,
}
# Where a template has several documents, the first of these statuses decides: a pending document may still
# come, and an unknown word is doubted for longer than a plain failure.
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
    """Judge the answer to a call for one template; None: it decides nothing, or everything is good."""
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
    """Judge what an unfiltered answer says of one template, of which the filtered answer `said` something.

    None: the documents are still being made, or everything is good. A final answer can leave out a document
    that is still being made, so one that it does not list is absent only if the filtered answer had none
    either.
    """
    if not documents:
        return said if said in {"failed", "absent"} and state in OVER else None
    verdict = _judge(documents)
    if verdict != "failed" or said == "failed":
        return verdict
    has_reason = any(each.annotations.vendor_code for each in documents if each.status == "failed")
    return "failed" if has_reason else "unexplained"


def seconds_left(verdict: Verdict, seconds: float | None) -> float:
    """Return for how many seconds a verdict is still doubted that stands for `seconds`; 0: not any more."""
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
