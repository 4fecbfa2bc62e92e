"""Calls Get Session for all results that are due, and records the answers.

Each pair of session and template has a row, and the unfiltered call has a row without a template. A webhook
or the schedule makes a row due; one worker leases it and makes the call while no transaction is open.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection

import msgspec
import structlog

from service.domain import retry_schedule as schedule
from service.domain.clock import Clock
from service.domain.errors import (
    EncryptionKeyMissing,
    StoreUnavailable,
    VendorCallHeldBack,
    VendorError,
    VendorRefused,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Account, SessionId, VendorSessionId
from service.domain.results import additional_documents, conclusion
from service.domain.results.events import emit_ending, release, settle
from service.domain.results.models import FetchJob, VendorResult
from service.domain.results.ports import ResultStore
from service.domain.results.recording import (
    GIVE_UP_AFTER_TRIES,
    Fetched,
    FetchOutcome,
    give_up,
    record_answer,
)
from service.domain.vendor import Vendor
from service.domain.vendor_calls import CALLING_TENANT
from service.domain.write_retry import write_until_stored

log = structlog.get_logger()

# Get Session may hold a request for 14 s (docs/vendor.md#long-poll); a login may come before it.
CALL_DEADLINE_SECONDS = 40.0
# Longer than CALL_DEADLINE_SECONDS, so that a call that runs into its time-out is still recorded under its
# lease.
FETCH_LEASE_SECONDS = 45.0
# While the vendor cannot be reached, a fetch goes on for this time: the vendor may have made the document.
_GIVE_UP_UNREACHABLE_SECONDS = 3 * 86_400.0
# A doctor waits for the documents of the last hour: once the vendor is back, they come within half a minute.
_AWAITED_SECONDS, _MAX_WAIT_WHILE_AWAITED_SECONDS = 3600.0, 30.0
# Perhaps no worker has the key of an older session any more, so its fetches come less often.
_UNAWAITED_SECONDS = 300.0
_WARN_BEFORE_EXPIRY_SECONDS = 300.0
# After so many failed tries, the worker stops asking whether a session that nobody ended is over.
_END_HINT_TRIES = 8
_REFUSED = "vendor_refused_"


def _uncounted(_: FetchOutcome) -> None:
    """Count nothing."""


class ResultFetcher:
    """Fetches results that are due and records their consequences."""

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
        """Lease calls that are due, of one session or of all, except those of accounts in `passed_over`."""
        return await self._store.claim_fetches(session_id, limit, FETCH_LEASE_SECONDS, passed_over)

    async def fetch(self, job: FetchJob) -> bool:
        """Make one leased call and record its outcome; True when the outbox may hold new deliveries."""
        CALLING_TENANT.set(job.tenant_id)
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
        except EncryptionKeyMissing:
            # A worker that has the key asks again; this try must not count towards giving the result up.
            is_awaited = job.ended_seconds_ago < _AWAITED_SECONDS
            wait = schedule.MISSING_KEY_SECONDS if is_awaited else _UNAWAITED_SECONDS
            await self._store.give_back_fetch(job, wait)
            fetched = Fetched(outcome="unrecorded", reason="encryption_key_missing", wait_seconds=wait)
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
        began = time.monotonic()
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                result = await self._ask(job)
        except TimeoutError:
            return await self._failed(job, "vendor_timeout", None)
        except VendorCallHeldBack as error:
            # The breaker held the call back before it was sent, so it counts as no try.
            wait = schedule.held_back_wait(error.retry_after_seconds, jitter=self._clock.jitter())
            await self._store.give_back_fetch(job, wait)
            return Fetched(outcome="not_sent", reason=error.code, wait_seconds=wait)
        except VendorUnreachable as error:
            return await self._failed(job, error.code, error.retry_after_seconds)
        except VendorRefused as error:
            return await self._failed(job, f"{_REFUSED}{error.status}", None)
        except VendorError as error:
            return await self._failed(job, error.code, None)
        except asyncio.CancelledError:
            await asyncio.shield(self._store.release_fetch(job))
            raise
        # The vendor may have held the call for 14 s.
        seconds = job.ended_seconds_ago + time.monotonic() - began
        answered = msgspec.structs.replace(job, ended_seconds_ago=seconds)
        return await write_until_stored(lambda: self._record(answered, result), self._clock)

    async def _ask(self, job: FetchJob) -> VendorResult:
        result = await self._vendor.get_session(job.account, job.vendor_id, job.template_id, job.document_id)
        if job.asked == "asked" and result.state == "failed":
            # Only the unfiltered answer gives the reason for an additional document's failure.
            whole = await self._vendor.get_session(job.account, job.vendor_id, UNFILTERED)
            return additional_documents.explained(job, result, whole)
        return result

    async def expire(self, session_id: SessionId) -> None:
        """Expire a session by our own clock, because some servers never report the expiry."""
        async with self._store.settling(session_id) as unit:
            if unit is not None and unit.is_past and unit.status in {"created", "recording"}:
                await unit.settle_other_fetches("session_expired")
                await settle(unit, "expired", "session_expired")
                await emit_ending(unit, "session.expired", "session_expired", self._clock)

    async def fail(self, session_id: SessionId, vendor_id: VendorSessionId, code: str) -> None:
        """End a session as failed, because the vendor does not have it or its audio; or make it again there.

        A caller whose lease was lost may speak of a vendor's session that another one has replaced: then
        nothing is changed.
        """
        async with self._store.settling(session_id) as unit:
            if unit is not None and not unit.is_final and unit.vendor_id == vendor_id:
                if await conclusion.remake(unit, code):
                    return
                await unit.settle_other_fetches(code)
                await settle(unit, "failed", code)
                await emit_ending(unit, "session.failed", code, self._clock)

    async def past(self, limit: int) -> list[SessionId]:
        """Return sessions that expired without an end."""
        return await self._store.past_sessions(limit)

    async def warn_expiring(self) -> None:
        """Log once for each dictation that will expire soon and was not ended."""
        for session_id in await self._store.warn_expiring(_WARN_BEFORE_EXPIRY_SECONDS):
            log.warning("session_expires_unended", session_id=session_id)

    async def crashed(self, job: FetchJob) -> bool:
        """Repeat a call that raised an unexpected error, with growing waits."""
        return (await self._failed(job, "internal_error", None)).has_events

    async def _failed(self, job: FetchJob, reason: str, retry_after_seconds: float | None) -> Fetched:
        """Schedule the repeat of a call without an answer; after days without one, give up on it."""
        if job.asked is not None and job.attempts >= additional_documents.MAX_TRIES:
            return await self._record_additional(job, None)
        if job.is_end_hint and job.attempts >= _END_HINT_TRIES:
            await self._store.drop_fetch(job)
            return Fetched(outcome="dropped", reason=reason)
        is_late = job.asked is None and job.ended_seconds_ago >= _GIVE_UP_UNREACHABLE_SECONDS
        is_awaited = job.asked is None and job.ended_seconds_ago < _AWAITED_SECONDS
        wait = schedule.error_wait(
            job.attempts,
            retry_after_seconds=retry_after_seconds,
            jitter=self._clock.jitter(),
            max_seconds=_MAX_WAIT_WHILE_AWAITED_SECONDS if is_awaited else math.inf,
        )
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.holds(job):
                return Fetched(outcome="lease_lost", reason=reason)
            if is_late and job.attempts >= GIVE_UP_AFTER_TRIES:
                return await give_up(unit, job, self._clock)
            await unit.postpone_fetch(job, wait, reason, is_missing=False)
            has_events = False
            if job.asked is None and not job.is_end_hint:
                if job.template_id != UNFILTERED and reason.startswith(_REFUSED):
                    # A server that refuses the filter may still answer without it.
                    await unit.record_verdict(job.template_id, "absent")
                    await unit.request_unfiltered(at_once=False)
                has_events = await conclusion.conclude(unit, self._clock)
        return Fetched(outcome="failed", has_events=has_events, reason=reason, wait_seconds=wait)

    async def _record(self, job: FetchJob, result: VendorResult) -> Fetched:
        if job.asked is not None:
            return await self._record_additional(job, result)
        if job.is_end_hint and result.state not in {"failed", "expired"}:
            # Only a final answer of the vendor ends a session that nobody ended; drop the hint.
            await self._store.drop_fetch(job)
            return Fetched(outcome="dropped", reason=result.state)
        async with self._store.settling(job.session_id) as unit:
            if unit is None:
                return Fetched(outcome="lease_lost")
            recorded = await record_answer(unit, job, result, self._clock)
        if unit.is_final and unit.status in {"failed", "expired"}:
            log.warning("session_ended_badly", session_id=job.session_id, status=unit.status)
        return recorded

    async def _record_additional(self, job: FetchJob, result: VendorResult | None) -> Fetched:
        """Record an answer about an additional document; None stands for too many failed tries."""
        async with self._store.settling(job.session_id) as unit:
            if unit is None or not await unit.holds(job):
                return Fetched(outcome="lease_lost")
            again = await additional_documents.record(unit, job, result)
            if again is None:
                has_events = await release(unit, self._clock)
                return Fetched(outcome="given_up" if result is None else "settled", has_events=has_events)
            wait = schedule.pending_wait(again.tries, self._clock.jitter())
            await unit.postpone_fetch(job, wait, again.reason, is_missing=again.is_missing)
        return Fetched(outcome="pending", reason=again.reason, wait_seconds=wait)
