"""Decides which documents go out and a session's final status, from the states of its Get Session calls."""

import structlog

from schemas.events import SessionEventType
from schemas.sessions import SessionStatus
from service.domain.clock import Clock
from service.domain.ids import UNFILTERED, TemplateId, new_vendor_session_id
from service.domain.results.events import emit_ending, missing_document, release, settle
from service.domain.results.models import FetchState
from service.domain.results.ports import SettleUnit
from service.domain.results.verdicts import OVER

log = structlog.get_logger()

# Endings of a session at the vendor after which a new session there can succeed with the same audio.
_REMADE_AFTER = frozenset({"vendor_failed", "session_expired", "vendor_session_missing"})
# Documents wait for the transcript, and a session waits for the unfiltered answer, but not during an outage.
UNFILTERED_TRIES = 3
# While a server answers, but never finally, the session waits longer: about a quarter of an hour.
_ANSWERED_TRIES = 8
_ANSWERS = frozenset({"completed", "partial", "unknown", "open", "processing"})
# Outcomes of an unfiltered call after which a session does not count as completed: after an unknown status
# nobody knows whether more documents would have come.
_NOT_COMPLETED = frozenset({"partial", "unknown"})


async def conclude(unit: SettleUnit, clock: Clock, *, is_new: bool = False) -> bool:
    """Release complete documents, and settle the session once all templates are settled; True for events.

    A document waits for its transcript. Filtered answers may lack the transcript
    (docs/vendor.md#filtered-transcript), and the unfiltered answer can hold it while documents are pending
    (docs/vendor.md#early-transcript), but a document waits for a few unfiltered tries only. A failing call
    holds back no document of another call. `is_new`: a template's documents have just come.
    """
    if unit.is_final:
        await _restate(unit)
        return await release(unit, clock)
    if unit.status not in {"processing", "partial", "completed"}:
        return False
    fetches = [fetch for fetch in await unit.fetches() if not fetch.is_additional]
    unfiltered = next((fetch for fetch in fetches if fetch.template_id == UNFILTERED), None)
    templates = [fetch for fetch in fetches if fetch.template_id != UNFILTERED]
    if unfiltered is None and not unit.transcript:
        if _lacks_transcript(templates):
            await unit.request_unfiltered(at_once=False)
        return False
    if not unit.transcript and not _has_answered(unfiltered):
        return False
    if all(fetch.is_settled for fetch in templates or fetches):
        await _settle(unit, templates, unfiltered, is_new=is_new)
    return await release(unit, clock)


async def close(
    unit: SettleUnit, status: SessionStatus, code: str, clock: Clock, *, has_verdicts: bool
) -> bool:
    """End a session without success, after an unfiltered answer or for lack of one; True for events.

    Documents that are here still go out: the session then ends as partial, and an event reports each
    requested template without a document as failed. `has_verdicts`: the vendor reported that these failed.
    A session without documents whose audio is kept here is made again instead, once.
    """
    stored = await unit.document_statuses()
    if not stored and await remake(unit, code):
        return False
    await unit.settle_other_fetches(code)
    if any(state == "success" for _, state in stored):
        for template_id in unit.templates:
            if template_id not in {each for each, _ in stored}:
                error_code = "template_failed" if has_verdicts else "document_missing"
                missing = missing_document(TemplateId(template_id))
                await unit.add_document(missing, error_code, listed=frozenset())
        await settle(unit, "partial", code)
    else:
        await settle(unit, status, code)
        ending: SessionEventType = "session.expired" if status == "expired" else "session.failed"
        await emit_ending(unit, ending, code, clock)
    await release(unit, clock)
    return True


async def remake(unit: SettleUnit, code: str) -> bool:
    """Make a session again at the vendor that ended badly there; False if its audio is not kept here.

    The EMR hears nothing of the bad ending; the timeline shows it.
    """
    if code not in _REMADE_AFTER or not await unit.remake(new_vendor_session_id(), code):
        return False
    log.warning("session_remade", session_id=unit.session_id, reason=code)
    return True


async def _restate(unit: SettleUnit) -> None:
    """Give a session that is over a better final status if documents came after its end."""
    says_partial = any(
        fetch.template_id == UNFILTERED and fetch.outcome in _NOT_COMPLETED for fetch in await unit.fetches()
    )
    status = await _status_by_documents(unit, is_partial=says_partial)
    if status is not None and unit.status not in {status, "completed"}:
        await settle(unit, status, None)


def _lacks_transcript(templates: list[FetchState]) -> bool:
    """Return whether all filtered calls were answered, at least one finally, and none had a transcript."""
    return any(fetch.is_settled for fetch in templates) and all(
        fetch.is_settled or fetch.was_answered for fetch in templates
    )


def _has_answered(unfiltered: FetchState | None) -> bool:
    """Return whether the unfiltered call can bring no more transcript, or has failed too often."""
    return unfiltered is not None and (
        unfiltered.is_settled or unfiltered.reason in OVER or unfiltered.attempts >= UNFILTERED_TRIES
    )


async def _settle(
    unit: SettleUnit, templates: list[FetchState], unfiltered: FetchState | None, *, is_new: bool
) -> None:
    """Settle the session, unless its status depends on an unfiltered answer that is still to come."""
    says_partial = any(fetch.outcome == "partial" for fetch in templates)
    if unfiltered is not None and not unfiltered.is_settled:
        tries = _ANSWERED_TRIES if unfiltered.reason in _ANSWERS else UNFILTERED_TRIES
        if says_partial and unfiltered.attempts < tries:
            if is_new:
                # The vendor gave its answers so far while it still made this template's documents.
                await unit.request_unfiltered(at_once=True, restart_tries=True)
            return
        says_partial = False  # the documents decide
        if unit.transcript:
            await unit.settle_template(UNFILTERED, "not_needed")
    elif unfiltered is not None:
        says_partial = unfiltered.outcome in _NOT_COMPLETED
    status = await _status_by_documents(unit, is_partial=says_partial)
    await settle(unit, status or ("partial" if says_partial else "completed"), None)


async def _status_by_documents(unit: SettleUnit, *, is_partial: bool) -> SessionStatus | None:
    """Derive a final status from the requested templates' documents; None when no such document exists."""
    stored = await unit.document_statuses()
    states = [state for template_id, state in stored if not unit.templates or template_id in unit.templates]
    if not states:
        return None
    have = {template_id for template_id, _ in stored}
    is_whole = all(state == "success" for state in states) and all(each in have for each in unit.templates)
    return "completed" if is_whole and not is_partial else "partial"
