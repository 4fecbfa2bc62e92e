"""Records an answer to Get Session and everything that follows from it, in one transaction.

A filtered answer speaks of one template's documents and never ends a session: a filtered `failed` has the
same shape as a failed session, and believing it loses the other documents. Only an unfiltered answer ends a
session.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import msgspec
from msgspec import Struct

from service.domain import retry_schedule as schedule
from service.domain.clock import Clock
from service.domain.ids import UNFILTERED, TemplateId
from service.domain.results import verdicts
from service.domain.results.conclusion import close, conclude
from service.domain.results.events import missing_document, settle
from service.domain.results.models import (
    DocumentAnnotations,
    FetchJob,
    FetchState,
    VendorDocument,
    VendorResult,
    Verdict,
)
from service.domain.results.ports import SettleUnit
from service.domain.results.verdicts import is_good, judge_filtered, judge_unfiltered, seconds_left

# The vendor keeps audio for 24 h (docs/vendor.md#audio-24-hours), so it cannot make a document later.
GIVE_UP_PENDING_SECONDS = 86_400.0
# Even after a long outage of this service, a fetch gives up only after so many tries.
GIVE_UP_AFTER_TRIES = 8
# If the transcription failed, the filtered call answers 202 for ever. After two minutes the unfiltered call
# reports the failure (docs/vendor.md#transcription-failed).
OVERDUE_SECONDS = 120.0
# The vendor starts to count when it gets the end call, a little later than we do.
_OVERDUE_AT_VENDOR_SECONDS = OVERDUE_SECONDS + 5.0
# "No such session" ends a dictation, so it counts only after so many such answers in a row, in four minutes.
_BELIEVE_MISSING_AFTER = 8
# A check of a session that is over stops after about three hours of "still processing".
_MAX_LOOKS_AFTER_ENDING = 40

FetchOutcome = Literal[
    "settled",
    "pending",
    "failed",
    "lease_lost",
    "given_up",
    "dropped",
    "not_sent",
    "released",
    "unrecorded",
    "crashed",
]


class Fetched(Struct, frozen=True, kw_only=True):
    """The outcome of one call; `has_events`: the outbox may hold new deliveries.

    `pending`: answered, and due again; `failed`: not answered, and due again; `dropped`: not needed any more;
    `not_sent`: our circuit breaker or queue held the call back; `released`: its worker stops; `unrecorded`:
    PostgreSQL became unreachable, or this worker lacks an encryption key.
    """

    outcome: FetchOutcome
    has_events: bool = False
    reason: str | None = None
    wait_seconds: float | None = None


async def record_answer(unit: SettleUnit, job: FetchJob, result: VendorResult, clock: Clock) -> Fetched:
    """Record an answer about an ended session; record nothing if the call's lease is lost."""
    documents = _of_template(result, job.template_id)
    if job.template_id != UNFILTERED and result.state in verdicts.OVER and is_good(documents):
        return await _record_good(unit, job, result, documents, clock)
    if not await unit.holds(job):
        return Fetched(outcome="lease_lost")
    if job.template_id != UNFILTERED:
        return await _record_doubtful(unit, job, result, documents, clock)
    if job.is_over:
        return await _record_look(unit, job, result, clock)
    return await _record_unfiltered(unit, job, result, clock)


async def _record_good(
    unit: SettleUnit, job: FetchJob, result: VendorResult, documents: Sequence[VendorDocument], clock: Clock
) -> Fetched:
    """Record a template's documents, all of them successes with content."""
    if not await unit.settle_fetch(job, result.state):
        return Fetched(outcome="lease_lost")
    await unit.record_result(result)
    await _store_good(unit, documents, is_list=False)
    if result.state == "partial" or await _awaits_transcript(unit):
        await unit.request_unfiltered(at_once=True, restart_tries=True)
    return Fetched(outcome="settled", has_events=await conclude(unit, clock, is_new=True))


async def _record_doubtful(
    unit: SettleUnit, job: FetchJob, result: VendorResult, documents: Sequence[VendorDocument], clock: Clock
) -> Fetched:
    """Record a filtered answer that is no plain success, and schedule the unfiltered call.

    A document has its own status, so an unknown status of the session does not hold a good document back.
    """
    if result.state in verdicts.OVER or result.state == "unknown":
        await unit.record_result(result)
        await _store_good(unit, documents, is_list=False)
    verdict = judge_filtered(result.state, documents)
    if verdict is not None or job.verdict in {"failed", "absent"}:
        # "Still processing" withdraws a verdict from a filtered answer, but none from an unfiltered answer.
        await unit.record_verdict(job.template_id, verdict)
    is_overdue = job.ended_seconds_ago >= OVERDUE_SECONDS
    if verdict is not None or is_overdue or result.state in {"missing", "expired"}:
        await unit.request_unfiltered(at_once=verdict is not None and verdict != job.verdict)
    wait = _pending_wait(job, clock) if verdict is None else schedule.doubt_wait(job.attempts, clock.jitter())
    return await _again(unit, job, wait, verdict or result.state, clock)


async def _awaits_transcript(unit: SettleUnit) -> bool:
    """Return whether the unfiltered call was scheduled before this document and can bring its transcript.

    Answers that came while all documents were unfinished do not count as failed tries for the transcript.
    """
    if unit.transcript:
        return False
    return any(
        each.template_id == UNFILTERED and not each.is_settled and each.reason not in verdicts.OVER
        for each in await unit.fetches()
    )


async def _record_unfiltered(unit: SettleUnit, job: FetchJob, result: VendorResult, clock: Clock) -> Fetched:
    match result.state:
        case "failed":
            return await _close(unit, job, "failed", "vendor_failed", result, clock)
        case "expired":
            return await _close(unit, job, "expired", "session_expired", result, clock)
        case "missing" | "no_document":
            return await _record_missing(unit, job, clock)
        case "open" | "processing":
            if any(state == "success" for _, state in await unit.document_statuses()):
                # The vendor makes a document from the complete transcript, so this transcript is complete.
                await unit.record_result(VendorResult(state=result.state, transcript=result.transcript))
            return await _still_undecided(unit, job, result, 0.0, clock)
        case "unknown":
            return await _record_unknown(unit, job, result, clock)
        case "completed" | "partial":
            await unit.record_result(result)
            left = await _record_templates(unit, job, result)
            if left is not None:
                return await _still_undecided(unit, job, result, left, clock)
            await unit.settle_fetch(job, result.state)
            return Fetched(outcome="settled", has_events=await conclude(unit, clock))
        case _:
            assert_never(result.state)


async def _record_unknown(unit: SettleUnit, job: FetchJob, result: VendorResult, clock: Clock) -> Fetched:
    """Record an unfiltered answer with an unknown status, after which more documents may come.

    This stores the documents by their own statuses. With requested templates, the session ends once each has
    its documents. Without templates the number of documents is unknown: the call repeats until the unknown
    status has stood for its time of doubt, and the session then ends as partial.
    """
    await unit.record_result(result)
    left = await _record_templates(unit, job, result)
    if left is not None or unit.templates:
        return await _still_undecided(unit, job, result, left or 0.0, clock)
    left = seconds_left("unknown", job.verdict_seconds if job.verdict == "unknown" else None)
    if left:
        await unit.record_verdict(UNFILTERED, "unknown")
        return await _still_undecided(unit, job, result, left, clock)
    await unit.settle_fetch(job, result.state)
    return Fetched(outcome="settled", has_events=await conclude(unit, clock))


async def _record_missing(unit: SettleUnit, job: FetchJob, clock: Clock) -> Fetched:
    """Record "no such session", which ends a dictation only after many such answers in a row."""
    if job.missing + 1 >= _BELIEVE_MISSING_AFTER:
        return await give_up(unit, job, clock, "vendor_session_missing")
    wait = schedule.error_wait(job.missing + 1, retry_after_seconds=None, jitter=clock.jitter())
    return await _again(unit, job, wait, "vendor_session_missing", clock, is_missing=True)


async def _still_undecided(
    unit: SettleUnit, job: FetchJob, result: VendorResult, confirmed_in_seconds: float, clock: Clock
) -> Fetched:
    """Schedule the next unfiltered call, at the latest for the time at which a verdict is confirmed."""
    if job.ended_seconds_ago >= GIVE_UP_PENDING_SECONDS and job.attempts >= GIVE_UP_AFTER_TRIES:
        return await give_up(unit, job, clock)
    # Show a session as partial while the vendor makes more documents, but not while a verdict is in doubt,
    # because a reader of "partial" expects that no more documents will come.
    is_shown = result.state == "partial" and unit.status == "processing" and not confirmed_in_seconds
    if is_shown and await unit.document_statuses():
        await unit.show_partial()
    jitter = clock.jitter()
    wait = schedule.look_wait(job.attempts, jitter) if unit.templates else _pending_wait(job, clock)
    return await _again(unit, job, min(wait, confirmed_in_seconds or wait), result.state, clock)


async def _record_templates(unit: SettleUnit, job: FetchJob, result: VendorResult) -> float | None:
    """Record each template's documents of an unfiltered answer.

    Returns None when all are settled, else the seconds until the next verdict is confirmed (0: unknown).
    """
    if not unit.templates:
        own = FetchState(
            template_id=UNFILTERED,
            is_settled=False,
            was_answered=True,
            attempts=job.attempts,
            verdict=job.verdict,
            verdict_seconds=job.verdict_seconds,
        )
        if not result.documents:
            return None if result.state in verdicts.OVER else 0.0
        return await _record_template(unit, own, result.documents, result)
    waits = []
    for fetch in await unit.fetches():
        if fetch.is_additional or fetch.template_id == UNFILTERED:
            continue
        documents = _of_template(result, fetch.template_id)
        if fetch.is_settled:
            await _store_good(unit, documents)  # a filtered answer holds only one of a template's documents
            continue
        # A template without a call so far has its own call, which is due.
        wait = await _record_template(unit, fetch, documents, result) if fetch.attempts else 0.0
        if wait is None:
            await unit.settle_template(fetch.template_id, result.state)
        else:
            waits.append(wait)
    return min((wait for wait in waits if wait), default=0.0) if waits else None


async def _record_template(
    unit: SettleUnit, fetch: FetchState, documents: Sequence[VendorDocument], result: VendorResult
) -> float | None:
    """Record one template's documents; return None if settled, else the seconds until a confirmed verdict."""
    await _store_good(unit, documents)
    if is_good(documents):
        return None
    verdict = judge_unfiltered(result.state, documents, fetch.verdict)
    if verdict is None:
        return 0.0
    left = seconds_left(verdict, fetch.verdict_seconds if verdict == fetch.verdict else None)
    if left:
        await unit.record_verdict(fetch.template_id, verdict)
        return left
    await _store_failed(unit, fetch.template_id, documents, verdict)
    return None


async def _record_look(unit: SettleUnit, job: FetchJob, result: VendorResult, clock: Clock) -> Fetched:
    """Record an unfiltered answer about a session that is over, without making its status worse."""
    is_new = result.state in verdicts.OVER or result.state == "unknown"
    if is_new:
        await unit.record_result(result)
        await _store_good(unit, result.documents, unless_same=True)
        await _restate(unit, result)
    is_undecided = any(each.status in {"pending", "empty", "unknown"} for each in result.documents)
    if result.state == "missing" and job.missing + 1 < _BELIEVE_MISSING_AFTER:
        wait = schedule.error_wait(job.missing + 1, retry_after_seconds=None, jitter=clock.jitter())
        return await _again(unit, job, wait, result.state, clock, is_missing=True)
    is_waiting = result.state in {"processing", "open"} or (is_new and is_undecided)
    if is_waiting and job.attempts < _MAX_LOOKS_AFTER_ENDING:
        wait = schedule.look_wait(job.attempts, clock.jitter())
        return await _again(unit, job, wait, result.state, clock)
    await unit.settle_fetch(job, result.state)
    return Fetched(outcome="settled", reason=result.state, has_events=await conclude(unit, clock))


async def _restate(unit: SettleUnit, result: VendorResult) -> None:
    """Report the failed templates of a session that ended without documents and has some now."""
    stored = await unit.document_statuses()
    if not any(state == "success" for _, state in stored):
        if not unit.templates and result.state in verdicts.OVER and unit.status in {"failed", "expired"}:
            await settle(unit, "completed" if result.state == "completed" else "partial", None)
        return
    for name in unit.templates:
        documents = _of_template(result, TemplateId(name))
        is_stored = name in {template_id for template_id, _ in stored}
        if not is_stored and documents and all(each.status == "failed" for each in documents):
            await _store_failed(unit, TemplateId(name), documents, "failed")


async def give_up(
    unit: SettleUnit, job: FetchJob, clock: Clock, code: str = "vendor_gave_no_result"
) -> Fetched:
    """End a session for which the vendor gave no result; a session in a final status keeps it."""
    return await _close(unit, job, "failed", code, None, clock)


async def _close(
    unit: SettleUnit,
    job: FetchJob,
    status: Literal["failed", "expired"],
    code: str,
    result: VendorResult | None,
    clock: Clock,
) -> Fetched:
    if not await unit.settle_fetch(job, code):
        return Fetched(outcome="lease_lost")
    fetched = Fetched(outcome="given_up" if result is None else "settled", reason=code, has_events=True)
    if unit.is_final:
        return msgspec.structs.replace(fetched, has_events=False)
    if result is not None:
        await unit.record_result(result)
    fetches = [
        each for each in await unit.fetches() if each.template_id != UNFILTERED and not each.is_additional
    ]
    if fetches and all(each.is_settled for each in fetches):
        # This call was for the transcript only, so the documents determine the status.
        return msgspec.structs.replace(fetched, has_events=await conclude(unit, clock))
    if not await close(unit, status, code, clock, has_verdicts=result is not None):
        # The session is made again: no result was given up.
        return Fetched(outcome="settled", reason=code)
    return fetched


async def _again(
    unit: SettleUnit,
    job: FetchJob,
    wait_seconds: float,
    reason: str,
    clock: Clock,
    *,
    is_missing: bool = False,
) -> Fetched:
    """Schedule the next try of the call, and draw conclusions from the states of all calls."""
    await unit.postpone_fetch(job, wait_seconds, reason, is_missing=is_missing)
    has_events = await conclude(unit, clock)
    return Fetched(outcome="pending", has_events=has_events, reason=reason, wait_seconds=wait_seconds)


def _pending_wait(job: FetchJob, clock: Clock) -> float:
    """Return the scheduled wait, shortened so that it ends when the vendor can first report a failure."""
    ended = job.ended_seconds_ago
    wait = schedule.pending_wait(
        job.attempts, clock.jitter(), seconds_after_end=ended, was_announced=job.was_announced
    )
    # From two minutes on, a filtered call schedules the unfiltered call, which follows its own schedule.
    is_early = ended < (_OVERDUE_AT_VENDOR_SECONDS if job.template_id == UNFILTERED else OVERDUE_SECONDS)
    return min(wait, max(1.0, _OVERDUE_AT_VENDOR_SECONDS - ended)) if is_early else wait


def _of_template(result: VendorResult, template_id: TemplateId) -> list[VendorDocument]:
    return [each for each in result.documents if each.template_id == template_id]


async def _store_good(
    unit: SettleUnit,
    documents: Sequence[VendorDocument],
    *,
    is_list: bool = True,
    unless_same: bool = False,
) -> None:
    """Store good documents; `is_list`: the vendor has no others, which only an unfiltered answer shows."""
    for document in documents:
        if document.status == "success":
            listed = frozenset(
                each.upstream_id for each in documents if each.template_id == document.template_id
            )
            await unit.add_document(
                document, None, listed=listed if is_list else None, unless_same=unless_same
            )


async def _store_failed(
    unit: SettleUnit, template_id: TemplateId, documents: Sequence[VendorDocument], verdict: Verdict
) -> None:
    """Store the other documents as failed, without content, because they can carry the previous text."""
    bad = [each for each in documents if each.status != "success"] or [missing_document(template_id)]
    listed = frozenset(each.upstream_id for each in documents)
    for document in bad:
        own = judge_unfiltered("completed", [document], None) if documents else None
        code = verdicts.ERROR_CODES[own if own is not None else verdict]
        kept = DocumentAnnotations(
            warnings=document.annotations.warnings, vendor_code=document.annotations.vendor_code
        )
        failed = msgspec.structs.replace(document, data=None, annotations=kept)
        await unit.add_document(failed, code, listed=listed)
