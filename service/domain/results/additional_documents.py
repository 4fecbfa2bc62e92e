"""Records the vendor's answers about additional documents of finished sessions.

The session's status does not change: only the document succeeds or fails.
"""

import msgspec
from msgspec import Struct

from service.domain.ids import TemplateId
from service.domain.results import verdicts
from service.domain.results.events import missing_document
from service.domain.results.models import DocumentAnnotations, FetchJob, VendorDocument, VendorResult
from service.domain.results.ports import SettleUnit

# By the schedules, more than three hours while the vendor works, and more than a day while it is away.
MAX_TRIES = 400
# So many answers in a row without the document (about 20 seconds), or without the session (about a minute),
# count as a failure; fewer mean "not yet".
_BELIEVE_NO_DOCUMENT_AFTER = 5
_BELIEVE_MISSING_AFTER = 8


class AskAgain(Struct, frozen=True, kw_only=True):
    """The document is not here yet; `tries` determines the wait before the next call."""

    reason: str
    tries: int
    is_missing: bool = False


class Made(Struct, frozen=True):
    """A document that the vendor makes or has made, with its id if that is known."""

    document_id: str | None


def find_made(result: VendorResult, template_id: TemplateId, known: frozenset[str]) -> Made | None:
    """Return the document if the answer shows that the vendor got the request for it, else None.

    With the filter, 202 means that this one document is pending (docs/vendor.md#filtered-pending).
    """
    if result.state == "processing":
        return Made(None)
    fresh = [each for each in _of_template(result, template_id) if each.upstream_id not in known]
    return Made(fresh[-1].upstream_id or None) if fresh else None


async def record(unit: SettleUnit, job: FetchJob, result: VendorResult | None) -> AskAgain | None:
    """Record an answer about an additional document, or its failure; or return when to ask again."""
    if job.asked == "asking":
        return await _record_look(unit, job, result)
    found = _of_template(result, job.template_id) if result is not None else []
    wanted = [each for each in found if job.document_id in {None, each.upstream_id}]
    is_over = result is not None and result.state in verdicts.OVER
    # An unknown status of the session is in doubt for a while; afterwards the document's own status counts.
    is_readable = is_over or (result is not None and result.state == "unknown")
    is_made = is_over and bool(wanted) and {each.status for each in wanted} <= {"success", "failed"}
    if not is_made and result is not None:
        again = await _ask_again(unit, job, result, wanted)
        if again is not None:
            return again
        wanted = [each for each in found if each.status != "pending"] if is_readable else []
    await unit.settle_fetch(job, "completed" if wanted else "document_missing")
    if result is not None:
        await unit.record_result(result)
    for document in wanted or [missing_document(job.template_id, job.document_id or "")]:
        await _store(unit, document, is_listed=bool(wanted))
    return None


def explained(job: FetchJob, result: VendorResult, whole: VendorResult) -> VendorResult:
    """Return a filtered `failed` answer with the failed document of the unfiltered answer, for its reason."""
    wanted = [
        each
        for each in _of_template(whole, job.template_id)
        if job.document_id in {None, each.upstream_id} and each.status == "failed"
    ]
    made = wanted or [missing_document(job.template_id, job.document_id or "")]
    return msgspec.structs.replace(result, state="partial", documents=made)


async def _store(unit: SettleUnit, document: VendorDocument, *, is_listed: bool) -> None:
    code = None
    if document.status != "success":
        verdict = verdicts.judge_unfiltered("completed", [document] if is_listed else [], None)
        code = verdicts.ERROR_CODES[verdict or "absent"]
        kept = DocumentAnnotations(
            warnings=document.annotations.warnings, vendor_code=document.annotations.vendor_code
        )
        document = msgspec.structs.replace(document, data=None, annotations=kept)
    # A new run replaces all earlier documents of the template, even those that the same answer still lists.
    await unit.add_document(document, code, listed=frozenset({document.upstream_id}))


async def _record_look(unit: SettleUnit, job: FetchJob, result: VendorResult | None) -> AskAgain | None:
    """Determine from an answer whether the vendor got the request, because its caller got no answer."""
    made = None
    if result is not None:
        known = await unit.known_documents(job.template_id)
        made = find_made(result, job.template_id, known)
    if made is None:
        await unit.drop_additional_document(job)
    else:
        await unit.mark_asked(job, made.document_id)
    return None


async def _ask_again(
    unit: SettleUnit, job: FetchJob, result: VendorResult, wanted: list[VendorDocument]
) -> AskAgain | None:
    """Return when to ask again; None to settle with the documents of this answer."""
    verdict = verdicts.judge_filtered(result.state, wanted) if wanted else None
    if verdict in {"empty", "unknown"}:
        left = verdicts.seconds_left(verdict, job.verdict_seconds if verdict == job.verdict else None)
        await unit.record_verdict(job.template_id, verdict)
        return AskAgain(reason=verdict, tries=job.attempts) if left else None
    if result.state in {"processing", "open"} or wanted:
        return None if job.attempts >= MAX_TRIES else AskAgain(reason=result.state, tries=job.attempts)
    believe_after = _BELIEVE_MISSING_AFTER if result.state == "missing" else _BELIEVE_NO_DOCUMENT_AFTER
    if job.missing + 1 >= believe_after:
        return None
    return AskAgain(reason="document_not_there", tries=job.missing + 1, is_missing=True)


def _of_template(result: VendorResult, template_id: TemplateId) -> list[VendorDocument]:
    return [each for each in result.documents if each.template_id == template_id]
