"""Processing of an ended session: transcript, documents, and the session's final status."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from service.sandbox.vendor.notes import AudioFacts, read_audio, write_note
from service.sandbox.vendor.records import (
    FAILED,
    GOOD,
    LLM_FAILURE,
    PARTIAL_SUCCESS,
    PENDING,
    POOR_AUDIO,
    Document,
    Session,
    SessionStatus,
)
from service.sandbox.vendor.settings import Outcome
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.webhooks import announce_document, announce_event, announce_outcome

ODD_STATUS = "some_new_status"
DocumentOutcome = Literal[
    "good", "failing", "partial_success", "empty", "late", "slow", "twice", "odd", "presigned"
]
# The prefix of a template's id decides the outcome of its document and overrides the settings.
PREFIXES: dict[str, DocumentOutcome] = {
    "fail": "failing",
    "partial": "partial_success",
    "empty": "empty",
    "late": "late",
    "slow": "slow",
    "twice": "twice",
    "odd": "odd",
    "presigned": "presigned",
}
# The outcome of a session's last document, by the outcome of the session.
_LAST_DOCUMENT: dict[Outcome, DocumentOutcome] = {
    "partial": "failing",
    "partial_success": "partial_success",
    "empty": "empty",
    "late": "late",
    "slow": "slow",
    "twice": "twice",
    "odd": "odd",
    "presigned": "presigned",
}


def start_processing(vendor: VendorState, session: Session) -> None:
    """Queue one run, as every End Session does, however many came before."""
    session.committed = True
    session.ended_at = session.ended_at or time.time()
    if session.user_status == "cancelled":
        session.cancelled_at_end = True
        return
    session.user_status, session.status = "commit", "processing"
    session.endless = _chosen(vendor, session) == "never"
    session.announce_change()
    announce_event(vendor, session, "scribe.session.end")
    vendor.spawn(_process(vendor, session), session)


async def finish(vendor: VendorState, session: Session, outcome: Outcome) -> None:
    """End a session now; "never" leaves it processing. Notifies pollers and webhook receivers."""
    if outcome == "never":
        return
    # Read first: whoever sees that a run is counted sees what came of it.
    facts = await asyncio.to_thread(read_audio, session)
    session.runs += 1
    session.committed, session.user_status, session.endless = True, "commit", False
    session.ended_at = session.ended_at or time.time()
    if outcome == "expired":
        session.status, session.completed_at = "expired", time.time()
        session.announce_change()
        announce_outcome(vendor, session)
    elif outcome == "stt_failed" or (outcome == "failed" and vendor.settings.is_august):
        vendor.spawn(_fail_later(vendor, session), session)
    elif outcome == "failed":
        for document in session.every_document():
            document.fail()
        settle(vendor, session)
    else:
        _write_results(vendor, session, facts, outcome)


def settle(vendor: VendorState, session: Session) -> None:
    """Judge a session by its documents once none is pending; wakes pollers, sends webhooks."""
    before, after = session.status, _judge(vendor, session)
    session.announce_change()
    if after is None:
        return
    session.status, session.processing_status = after, "success" if after != "failed" else "request_failure"
    if before not in {after, "completed"}:
        session.completed_at, session.completed_shown = time.time(), False
    is_news = before in {"initialized", "processing"} or (before, after) == ("partial", "completed")
    if is_news or vendor.settings.webhook_on_document:
        announce_outcome(vendor, session)


def add_document(vendor: VendorState, session: Session, template_id: str) -> Document:
    """Queue one more document of a session, or the same one anew, as the settings say."""
    known = [each for each in session.documents if each.current and each.template_id == template_id]
    if known and vendor.settings.rerun_reuses_document:
        document = known[-1]
        document.status = PENDING
    else:
        document = Document(template_id, name=vendor.name_of(template_id))
        session.documents.append(document)
    document.runs = max((each.runs for each in known), default=0) + 1
    vendor.spawn(_extract_later(vendor, session, document, vendor.settings.processing_seconds), session)
    return document


def does_not_exist(template_id: str) -> bool:
    """Whether the template is one that the stand-in does not have."""
    return template_id.startswith(("no_such", "no-such"))


async def _process(vendor: VendorState, session: Session) -> None:
    await asyncio.sleep(vendor.settings.processing_seconds)
    await finish(vendor, session, _chosen(vendor, session))


def _chosen(vendor: VendorState, session: Session) -> Outcome:
    return vendor.settings.outcomes.get(session.session_id, vendor.settings.outcome)


async def _fail_later(vendor: VendorState, session: Session) -> None:
    # Get Session counts the seconds itself; this is for pollers, webhooks and control calls.
    session.announce_change()
    await asyncio.sleep(vendor.settings.stt_fail_seconds)
    session.status = "failed"
    session.announce_change()
    announce_outcome(vendor, session)


def _write_results(vendor: VendorState, session: Session, facts: AudioFacts, outcome: Outcome) -> None:
    settings = vendor.settings
    silent = outcome == "silent" or (not settings.is_hosted and not session.chunks)
    if not session.damaged:
        session.transcript.write("" if silent else facts.transcript())
        announce_event(vendor, session, "scribe.session.transcript.completed", transcript_status="success")
    else:
        vendor.spawn(_settle_later(vendor, session, settings.damage_seconds), session)
    documents = _documents_to_make(vendor, session)
    last = _LAST_DOCUMENT.get(outcome)
    if outcome == "partial" and any(_by_prefix(each.template_id) == "failing" for each in documents):
        last = None
    if outcome == "partial" and not documents and not session.damaged:
        session.transcript.status = PARTIAL_SUCCESS
    for document in documents:
        if silent:
            if not settings.is_august:
                document.fail(LLM_FAILURE)
            continue
        default: DocumentOutcome = last if last and document is documents[-1] else "good"
        _make(vendor, session, document, facts, _by_prefix(document.template_id) or default)
    settle(vendor, session)


def _documents_to_make(vendor: VendorState, session: Session) -> list[Document]:
    """Choose what End Session makes: on-prem in place, hosted anew each time (docs/vendor.md#end-twice)."""
    settings = vendor.settings
    requested = [each for each in session.documents if each.requested and each.current and not each.deleted]
    if not settings.is_hosted:
        never = session.flavour or session.templates_patched
        return [] if never or (settings.is_august and not settings.makes_documents) else requested
    if session.runs > 1 and not any(each.status == PENDING for each in requested):
        for document in session.documents:
            document.current = False
        requested = new_documents(vendor, session, session.templates)
    return requested


def new_documents(vendor: VendorState, session: Session, template_ids: list[str]) -> list[Document]:
    """Add a pending document for each of these templates, as Create Session does."""
    now = time.time()
    made = [
        Document(
            each,
            name=vendor.name_of(each),
            requested=True,
            has_path=not vendor.settings.is_august,
            created_at=now,
        )
        for each in template_ids
    ]
    session.documents.extend(made)
    return made


def _by_prefix(template_id: str) -> DocumentOutcome | None:
    found = (outcome for prefix, outcome in PREFIXES.items() if template_id.startswith(prefix))
    return next(found, None)


def _make(
    vendor: VendorState, session: Session, document: Document, facts: AudioFacts, outcome: DocumentOutcome
) -> None:
    if outcome == "slow":
        delay = vendor.settings.slow_template_seconds
        document.status = PENDING
        vendor.spawn(_extract_later(vendor, session, document, delay), session)
        return
    _fill(vendor, session, document, facts, outcome)
    if outcome == "twice":
        second = Document(document.template_id, name=document.name)
        second.write(_revise(document, 2))
        session.documents.append(second)
        announce_document(vendor, session, second)
    announce_document(vendor, session, document)


def _fill(
    vendor: VendorState, session: Session, document: Document, facts: AudioFacts, outcome: DocumentOutcome
) -> None:
    document.errors, document.warnings = [], []
    if outcome == "failing":
        document.fail(LLM_FAILURE)
        return
    document.write(write_note(session, facts, document.template_id))
    if outcome == "partial_success":
        document.status, document.warnings = PARTIAL_SUCCESS, [POOR_AUDIO]
    elif outcome == "empty":
        document.content = None
    elif outcome == "late":
        document.shown_at = time.time() + vendor.settings.late_content_seconds
    elif outcome == "odd":
        document.status = ODD_STATUS
    document.by_address = outcome == "presigned"


async def _extract_later(
    vendor: VendorState, session: Session, document: Document, delay_seconds: float
) -> None:
    await asyncio.sleep(delay_seconds)
    facts = await asyncio.to_thread(read_audio, session)
    outcome = _by_prefix(document.template_id) or "good"
    refused = does_not_exist(document.template_id) or not session.committed
    _fill(vendor, session, document, facts, "failing" if refused else outcome)
    if vendor.settings.rerun_changes and document.runs > 1 and document.status == GOOD:
        document.write(_revise(document, document.runs))
    announce_document(vendor, session, document)
    settle(vendor, session)


async def _settle_later(vendor: VendorState, session: Session, delay_seconds: float) -> None:
    await asyncio.sleep(delay_seconds)
    settle(vendor, session)


def _revise(document: Document, revision: int) -> object:
    content = document.read()
    return {**content, "revision": revision} if isinstance(content, dict) else f"{content}\n\n({revision})"


def _judge(vendor: VendorState, session: Session) -> SessionStatus | None:
    """Say how the session ended, None while something is pending that the vendor waits for."""
    documents = [each for each in session.documents if each.current and not each.deleted]
    statuses = [each.status for each in documents]
    transcript = session.transcript.status
    if transcript == PENDING and not _damage_is_over(vendor, session):
        return None
    if PENDING in statuses:
        return "partial" if vendor.settings.partial_while_pending else None
    if transcript == FAILED and all(status == FAILED for status in statuses):
        return "failed"
    return "completed" if transcript == GOOD and all(status == GOOD for status in statuses) else "partial"


def _damage_is_over(vendor: VendorState, session: Session) -> bool:
    ended_at = session.ended_at or time.time()
    return session.damaged and time.time() >= ended_at + vendor.settings.damage_seconds
