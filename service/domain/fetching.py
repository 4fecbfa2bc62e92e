"""How a finished result gets from the vendor into our rows and the outbox, each template fetched once.

A fetch is a row per (session, template). A webhook or the clock makes it due, one worker leases it, calls
Get Session with no transaction open, and records everything that follows in one transaction.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from typing import Literal

import msgspec
import structlog
from msgspec import Struct

from schemas.emr import EventType, SessionStatus
from service.domain import further_results, schedule
from service.domain.endings import emit_ending, missing_document, release, settle
from service.domain.errors import (
    StoreUnavailable,
    VendorError,
    VendorGateClosed,
    VendorRefused,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Account, SessionId
from service.domain.ports import Clock, ResultStore, SettleUnit, Vendor
from service.domain.recording import record
from service.domain.records import FetchJob, FetchState, VendorDocument, VendorResult

log = structlog.get_logger()

# Get Session may hold a request for 14 s (facts.md, Sessions); a login may come before it.
CALL_DEADLINE_SECONDS = 40.0
LEASE_SECONDS = 45.0
# The vendor keeps audio for 24 h (facts.md, Audio): what it has not made by then it never will. A vendor that
# cannot be asked is waited for longer: it may have made it.
_GIVE_UP_PENDING_SECONDS = 86_400.0
_GIVE_UP_UNREACHABLE_SECONDS = 3 * 86_400.0
# "No such document" and "no such session" end a dictation, so they are believed only when they are said
# again and nothing else in between: for about 10 seconds, and for about 4 minutes.
_BELIEVE_NO_DOCUMENT_AFTER = 5
# However long we were away ourselves, nothing is given up before it was asked for so often.
_GIVE_UP_AFTER_TRIES = 8
_BELIEVE_MISSING_AFTER = 8
# Documents wait for the transcript that goes with them, but not for an outage.
_TRANSCRIPT_TRIES = 3
# A doctor waits for a note of the last hour: once the vendor is back, it comes within half a minute.
_AWAITED_SECONDS, _MOST_WAIT_WHILE_AWAITED_SECONDS = 3600.0, 30.0
_WARN_BEFORE_EXPIRY_SECONDS = 300.0
# How often a vendor that cannot be asked is asked whether a session that nobody ended is over.
_PROBE_TRIES = 8
_NONE: frozenset[str] = frozenset()

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
    """What came of one call; `has_events`: deliveries may be in the outbox.

    `pending`: it was answered, and is asked again; `failed`: it was not, and is asked again; `dropped`: it
    need not be made after all; `not_sent`: the gate to the vendor was closed; `released`: its worker stops;
    `unrecorded`: PostgreSQL went away meanwhile.
    """

    outcome: FetchOutcome
    has_events: bool = False
    reason: str | None = None
    wait_seconds: float | None = None


def _uncounted(_: FetchOutcome) -> None:
    """Count nothing: for whoever does not want to know."""


class Fetching:
    """Fetches results that are due and records what follows from them."""

    def __init__(
        self,
        *,
        store: ResultStore,
        vendor: Vendor,
        clock: Clock,
        count: Callable[[FetchOutcome], None] = _uncounted,
    ) -> None:
        self._store = store
        self._vendor = vendor
        self._clock = clock
        self._count = count

    async def claim(
        self, session_id: SessionId | None, limit: int, passed_over: Collection[Account] = ()
    ) -> list[FetchJob]:
        """Lease calls that are due, of one session or of any, but not of accounts that are passed over."""
        return await self._store.claim_fetches(session_id, limit, LEASE_SECONDS, passed_over)

    async def fetch(self, job: FetchJob) -> bool:
        """Make one leased call and record its outcome; true when deliveries may be in the outbox."""
        began = time.monotonic()
        fetched = Fetched(outcome="crashed")
        try:
            fetched = await self._fetch(job)
        except asyncio.CancelledError:
            fetched = Fetched(outcome="released")
            raise
        except StoreUnavailable as error:
            fetched = Fetched(outcome="unrecorded", reason=error.code)
            raise
        finally:
            self._tell(job, fetched, time.monotonic() - began)
        return fetched.has_events

    def _tell(self, job: FetchJob, fetched: Fetched, seconds: float) -> None:
        wait = fetched.wait_seconds
        self._count(fetched.outcome)
        log.info(
            "fetch",
            tenant_id=job.tenant_id,
            session_id=job.session_id,
            template_id=job.template_id,
            attempt=job.attempts,
            outcome=fetched.outcome,
            reason=fetched.reason,
            wait_seconds=None if wait is None else round(wait, 3),
            seconds_after_end=round(job.ended_seconds_ago, 3),
            duration_ms=round(seconds * 1000, 1),
        )

    async def _fetch(self, job: FetchJob) -> Fetched:
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                result = await self._vendor.get_session(job.account, job.session_id, job.template_id)
        except TimeoutError:
            return await self._failed(job, "vendor_timeout", None)
        except VendorGateClosed as error:
            # Nothing was sent: it counts for nothing.
            wait = schedule.gate_wait(error.retry_after_seconds, chance=self._clock.chance())
            await self._store.give_back_fetch(job, wait)
            return Fetched(outcome="not_sent", reason=error.code, wait_seconds=wait)
        except VendorUnreachable as error:
            return await self._failed(job, error.code, error.retry_after_seconds)
        except VendorRefused as error:
            return await self._failed(job, f"vendor_refused_{error.status}", None)
        except VendorError as error:
            return await self._failed(job, error.code, None)
        except asyncio.CancelledError:
            await asyncio.shield(self._store.release_fetch(job))
            raise
        return await record(lambda: self._record(job, result), self._clock)

    async def expire(self, session_id: SessionId) -> None:
        """Expire a session whose time is over, by our own clock: some servers never say so (facts.md)."""
        async with self._store.settling(session_id) as unit:
            if unit is not None and unit.is_past and unit.status in {"created", "recording"}:
                await unit.settle_other_fetches("session_expired")
                await settle(unit, "expired", "session_expired")
                await emit_ending(unit, "session.expired", "session_expired", self._clock)

    async def past(self, limit: int) -> list[SessionId]:
        """Return sessions that were never ended and whose time is over."""
        return await self._store.past_sessions(limit)

    async def warn_expiring(self) -> None:
        """Say in the log, once, which dictations are about to expire unended."""
        for session_id in await self._store.warn_expiring(_WARN_BEFORE_EXPIRY_SECONDS):
            log.warning("session_expires_unended", session_id=session_id)

    async def crashed(self, job: FetchJob) -> bool:
        """Something that nobody foresaw went wrong with this call: it is asked again, later and later."""
        return (await self._failed(job, "internal_error", None)).has_events

    async def _failed(self, job: FetchJob, reason: str, retry_after_seconds: float | None) -> Fetched:
        if job.asked is not None and job.attempts >= further_results.MOST_TRIES:
            return await self._record_further(job, None)
        if job.is_probe and job.attempts >= _PROBE_TRIES:
            await self._store.drop_fetch(job)
            return Fetched(outcome="dropped", reason=reason)
        is_late = job.asked is None and job.ended_seconds_ago >= _GIVE_UP_UNREACHABLE_SECONDS
        if is_late and job.attempts >= _GIVE_UP_AFTER_TRIES:
            return await self._give_up(job)
        is_awaited = job.asked is None and job.ended_seconds_ago < _AWAITED_SECONDS
        wait = schedule.error_wait(
            job.attempts,
            retry_after_seconds=retry_after_seconds,
            chance=self._clock.chance(),
            most_seconds=_MOST_WAIT_WHILE_AWAITED_SECONDS if is_awaited else math.inf,
        )
        return await self._postpone(job, wait, reason, outcome="failed")

    async def _record(self, job: FetchJob, result: VendorResult) -> Fetched:
        if job.asked is not None:
            return await self._record_further(job, result)
        if job.is_probe and result.state not in {"failed", "expired"}:
            # Only the vendor's own word ends a session that nobody ended; the hint is forgotten.
            await self._store.drop_fetch(job)
            return Fetched(outcome="dropped", reason=result.state)
        if result.state in {"failed", "expired"}:
            return await self._end_badly(job, result)
        if result.state == "missing":
            if job.missing + 1 >= _BELIEVE_MISSING_AFTER:
                return await self._give_up(job, "vendor_session_missing")
            wait = schedule.error_wait(job.missing + 1, retry_after_seconds=None, chance=self._clock.chance())
            return await self._postpone(job, wait, "vendor_session_missing", is_missing=True)
        if _is_ready(job, result):
            return await self._record_result(job, result)
        if job.ended_seconds_ago >= _GIVE_UP_PENDING_SECONDS and job.attempts >= _GIVE_UP_AFTER_TRIES:
            return await self._give_up(job)
        # What is ready is filed now, the rest is asked for by schedule.
        has_part = result.state == "partial" and await self._record_part(job, result)
        is_missing = result.state != "processing" and not _wanted(job, result)
        tries = job.missing + 1 if is_missing else job.attempts
        wait = schedule.pending_wait(tries, self._clock.chance())
        postponed = await self._postpone(job, wait, result.state, is_missing=is_missing)
        return msgspec.structs.replace(postponed, has_events=True) if has_part else postponed

    async def _postpone(
        self,
        job: FetchJob,
        wait_seconds: float,
        reason: str,
        *,
        outcome: FetchOutcome = "pending",
        is_missing: bool = False,
    ) -> Fetched:
        await self._store.postpone_fetch(job, wait_seconds, reason, is_missing=is_missing)
        has_events = False
        if not job.is_probe and job.asked is None:
            async with self._store.settling(job.session_id) as unit:
                has_events = unit is not None and await _conclude(unit, None, self._clock)
        return Fetched(outcome=outcome, has_events=has_events, reason=reason, wait_seconds=wait_seconds)

    async def _record_result(self, job: FetchJob, result: VendorResult) -> Fetched:
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.settle_fetch(job, result.state):
                return Fetched(outcome="lease_lost")
            await unit.record_result(result)
            if not await _add_documents(unit, job, result) and job.template_id != UNFILTERED:
                await unit.add_document(missing_document(job.template_id), "document_missing", listed=_NONE)
            await _conclude(unit, result, self._clock)
        return Fetched(outcome="settled", has_events=True)

    async def _record_part(self, job: FetchJob, result: VendorResult) -> bool:
        """Record what an answer holds already, while the same call's other documents are still to come."""
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.holds(job):
                return False
            await unit.record_result(result)
            await _add_documents(unit, job, result)
            return await _conclude(unit, result, self._clock)

    async def _record_further(self, job: FetchJob, result: VendorResult | None) -> Fetched:
        """Record an answer, or after too many failures none, that concerns a further document."""
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.holds(job):
                return Fetched(outcome="lease_lost")
            verdict = await further_results.record(unit, job, result)
            if verdict is None:
                has_events = await release(unit, self._clock)
                return Fetched(outcome="given_up" if result is None else "settled", has_events=has_events)
        wait = schedule.pending_wait(verdict.tries, self._clock.chance())
        return await self._postpone(job, wait, verdict.reason, is_missing=verdict.is_missing)

    async def _end_badly(self, job: FetchJob, result: VendorResult) -> Fetched:
        status: SessionStatus = "expired" if result.state == "expired" else "failed"
        code = "session_expired" if status == "expired" else "vendor_failed"
        return await self._close(job, status, code, result)

    async def _give_up(self, job: FetchJob, code: str = "vendor_gave_no_result") -> Fetched:
        return await self._close(job, "failed", code, None)

    async def _close(
        self, job: FetchJob, status: SessionStatus, code: str, result: VendorResult | None
    ) -> Fetched:
        """End the session badly, unless some of its documents are here already: then it ends partial."""
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.settle_fetch(job, code):
                return Fetched(outcome="lease_lost")
            fetched = Fetched(outcome="given_up" if result is None else "settled", reason=code)
            if result is not None:
                await unit.record_result(result)
            if job.template_id == UNFILTERED and unit.templates and not job.is_probe:
                # It was for the transcript alone: the documents decide.
                has_events = await _conclude(unit, result, self._clock)
                return msgspec.structs.replace(fetched, has_events=has_events)
            if unit.is_final:
                return fetched  # a further look at a result that is here: it stays as it is
            await unit.settle_other_fetches(code)
            if any(state == "success" for _, state in await unit.document_statuses()):
                await settle(unit, "partial", code)
            else:
                await settle(unit, status, code)
                ending: EventType = "session.expired" if status == "expired" else "session.failed"
                await emit_ending(unit, ending, code, self._clock)
            await release(unit, self._clock)
        log.warning("session_ended_badly", session_id=job.session_id, status=status, error=code)
        return msgspec.structs.replace(fetched, has_events=True)


def _wanted(job: FetchJob, result: VendorResult) -> list[VendorDocument]:
    """Return the documents that this call asked for."""
    return [d for d in result.documents if job.template_id in {UNFILTERED, d.template_id}]


def _is_ready(job: FetchJob, result: VendorResult) -> bool:
    """Whether an answer settles what was asked for."""
    if result.state not in {"completed", "partial", "no_document"}:
        return False
    wanted = _wanted(job, result)
    if any(document.status == "pending" for document in wanted):
        return False
    if job.template_id == UNFILTERED or wanted:
        return True
    # The session is over and the filter brought nothing.
    return job.missing + 1 >= _BELIEVE_NO_DOCUMENT_AFTER


async def _add_documents(unit: SettleUnit, job: FetchJob, result: VendorResult) -> bool:
    """Store what is made of the documents that this call asked for; false when there is none of them."""
    if job.template_id == UNFILTERED and unit.templates:
        return False  # that call was for the transcript; each template has its own
    wanted = _wanted(job, result)
    for document in wanted:
        if document.status != "pending":
            template_id = document.template_id
            listed = frozenset(each.upstream_id for each in wanted if each.template_id == template_id)
            code = "template_failed" if document.status == "failed" else None
            await unit.add_document(document, code, listed=listed)
    return bool(wanted)


async def _conclude(unit: SettleUnit, result: VendorResult | None, clock: Clock) -> bool:
    """Do what follows from how the session's calls stand now, after any of them; true for events.

    Documents wait for the transcript that goes with them: for the filtered answers, then for the one call
    without the filter, but not for longer than a few tries of it. No call's outage holds back another's.
    """
    if unit.status not in {"processing", "partial", "completed"}:
        return False
    fetches = [fetch for fetch in await unit.fetches() if not fetch.is_further]
    bare = next((fetch for fetch in fetches if fetch.template_id == UNFILTERED), None)
    filtered = [fetch for fetch in fetches if fetch.template_id != UNFILTERED]
    if result is not None and result.state == "partial":
        await _show_partial(unit, filtered or fetches)
    if bare is None and not unit.transcript:
        if _lacks_transcript(filtered):
            await unit.owe_fetch(UNFILTERED)
        return False
    has_waited = bare is not None and (bare.is_settled or bare.attempts >= _TRANSCRIPT_TRIES)
    if not unit.transcript and not has_waited:
        return False
    if all(fetch.is_settled for fetch in filtered or fetches):
        await _settle_by_documents(unit, result)
    return await release(unit, clock)


def _lacks_transcript(filtered: list[FetchState]) -> bool:
    """Whether every filtered call was answered, one of them finally, and none brought a transcript."""
    return any(fetch.is_settled for fetch in filtered) and all(
        fetch.is_settled or fetch.was_answered for fetch in filtered
    )


async def _show_partial(unit: SettleUnit, fetches: list[FetchState]) -> None:
    """Show a session as partial of which a document is here while the vendor still works on others."""
    is_waiting = not all(fetch.is_settled for fetch in fetches)
    if is_waiting and unit.status == "processing" and await unit.document_statuses():
        await unit.show_partial()


async def _settle_by_documents(unit: SettleUnit, result: VendorResult | None) -> None:
    """Derive the session's status from how its documents stand; without templates, from the vendor's word.

    What ended is not looked at again, but for a partial session of which a further answer has come.
    """
    if unit.is_final and (unit.status != "partial" or result is None):
        return
    states = [
        state
        for template_id, state in await unit.document_statuses()
        if not unit.templates or template_id in unit.templates
    ]
    vendor_says_partial = not unit.templates and result is not None and result.state == "partial"
    is_partial = vendor_says_partial or any(state != "success" for state in states)
    status: SessionStatus = "partial" if is_partial else "completed"
    if not unit.is_final or status != unit.status:
        await settle(unit, status, None)
