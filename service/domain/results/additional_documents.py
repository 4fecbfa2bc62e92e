"""What an answer means for a document that was asked for after its session had finished.

The session's status stays as it is: only the document succeeds or fails.
"""

import msgspec
from msgspec import Struct

from service.domain.ids import TemplateId
from service.domain.models import DocumentAnnotations, FetchJob, VendorDocument, VendorResult
from service.domain.ports import SettleUnit
from service.domain.results import verdicts
from service.domain.results.events import missing_document

# By the schedules: more than three hours of a vendor that works on it, more than a day of one that is away.
MAX_TRIES = 400
# How often in a row an answer without the document, or without the session, is taken for "not yet": for about
# 20 seconds, and for about a minute.
_BELIEVE_NO_DOCUMENT_AFTER = 5
_BELIEVE_MISSING_AFTER = 8


class AskAgain(Struct, frozen=True, kw_only=True):
    """It is not here yet; `tries` says how long to wait."""

    reason: str
    tries: int
    is_missing: bool = False


class Made(Struct, frozen=True):
    """The vendor makes the document, or has made it; its id, where that is known."""

    document_id: str | None


def find_made(result: VendorResult, template_id: TemplateId, known: frozenset[str]) -> Made | None:
    """Return what an answer says of a document that may have been asked for; None: it was not.

    With the filter, 202 means that this one document is pending (docs/vendor.md#filtered-pending).
    """
    if result.state == "processing":
        return Made(None)
    fresh = [each for each in _of_template(result, template_id) if each.upstream_id not in known]
    return Made(fresh[-1].upstream_id or None) if fresh else None


async def record(unit: SettleUnit, job: FetchJob, result: VendorResult | None) -> AskAgain | None:
    """Record an answer to a call for a further document, or that there will be none; or say to ask again."""
    if job.asked == "asking":
        return await _record_look(unit, job, result)
    found = _of_template(result, job.template_id) if result is not None else []
    wanted = [each for each in found if job.document_id in {None, each.upstream_id}]
    is_over = result is not None and result.state in verdicts.OVER
    # An unknown word for the session is doubted for a while; afterwards the document's own status counts.
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
    """Return the unfiltered answer in the place of a filtered `failed`, with the document in it, failed."""
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
    # A re-run takes the place of all that there was, also of the documents that the same answer still lists.
    await unit.add_document(document, code, listed=frozenset({document.upstream_id}))


async def _record_look(unit: SettleUnit, job: FetchJob, result: VendorResult | None) -> AskAgain | None:
    """Settle whether the vendor was asked at all: whoever asked it did not learn."""
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
    """Return when to ask again; None when what is there has to do."""
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
