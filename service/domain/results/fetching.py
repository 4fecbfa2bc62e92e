"""Calls Get Session for every result that is due, and has the answer recorded.

A fetch is a row per (session, template), and one without a template for the unfiltered call. A webhook or the
clock makes it due, one worker leases it and makes the call with no transaction open.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection

import msgspec
import structlog

from service.domain import retry_schedule as schedule
from service.domain.errors import (
    EncryptionKeyMissing,
    StoreUnavailable,
    VendorCallHeldBack,
    VendorError,
    VendorRefused,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Account, SessionId
from service.domain.models import FetchJob, VendorResult
from service.domain.ports import Clock, ResultStore, Vendor
from service.domain.results import additional_documents, conclusion
from service.domain.results.events import emit_ending, release, settle
from service.domain.results.recording import (
    GIVE_UP_AFTER_TRIES,
    Fetched,
    FetchOutcome,
    give_up,
    record_answer,
)
from service.domain.vendor_calls import CALLING_TENANT
from service.domain.write_retry import write_until_stored

log = structlog.get_logger()

# Get Session may hold a request for 14 s (docs/vendor.md#long-poll); a login may come before it.
CALL_DEADLINE_SECONDS = 40.0
LEASE_SECONDS = 45.0
# A vendor that cannot be asked is waited for: it may have made the document meanwhile.
_GIVE_UP_UNREACHABLE_SECONDS = 3 * 86_400.0
# A doctor waits for a note of the last hour: once the vendor is back, it comes within half a minute.
_AWAITED_SECONDS, _MAX_WAIT_WHILE_AWAITED_SECONDS = 3600.0, 30.0
# Nobody may have the key of an older session any more: its result must not be asked for all day.
_UNAWAITED_SECONDS = 300.0
_WARN_BEFORE_EXPIRY_SECONDS = 300.0
# How often a vendor that cannot be asked is asked whether a session that nobody ended is over.
_PROBE_TRIES = 8
_REFUSED = "vendor_refused_"


def _uncounted(_: FetchOutcome) -> None:
    """Count nothing."""


class ResultFetcher:
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
            # Nothing was sent: it counts for nothing.
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
        result = await self._vendor.get_session(job.account, job.session_id, job.template_id, job.document_id)
        if job.asked == "asked" and result.state == "failed":
            # The reason of an additional document's failure stands in the unfiltered answer only.
            whole = await self._vendor.get_session(job.account, job.session_id, UNFILTERED)
            return additional_documents.explained(job, result, whole)
        return result

    async def expire(self, session_id: SessionId) -> None:
        """Expire a session whose time is over, by our own clock: some servers never say so."""
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
        """Have a call made again that brought no answer; some are given up after days of that."""
        if job.asked is not None and job.attempts >= additional_documents.MAX_TRIES:
            return await self._record_additional(job, None)
        if job.is_probe and job.attempts >= _PROBE_TRIES:
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
            if job.asked is None and not job.is_probe:
                if job.template_id != UNFILTERED and reason.startswith(_REFUSED):
                    # A server that refuses the filter may still answer without it.
                    await unit.record_verdict(job.template_id, "absent")
                    await unit.request_unfiltered(at_once=False)
                has_events = await conclusion.conclude(unit, self._clock)
        return Fetched(outcome="failed", has_events=has_events, reason=reason, wait_seconds=wait)

    async def _record(self, job: FetchJob, result: VendorResult) -> Fetched:
        if job.asked is not None:
            return await self._record_additional(job, result)
        if job.is_probe and result.state not in {"failed", "expired"}:
            # Only the vendor's own word ends a session that nobody ended; the hint is forgotten.
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
        """Record an answer, or after too many failures none, that concerns an additional document."""
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
