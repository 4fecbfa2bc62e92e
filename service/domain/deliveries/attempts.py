"""How a delivery gets to the EMR, and what each way of failing means.

The stage and the answer decide, not one retry for all (contract, "For the EMR's own endpoint").
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import msgspec
import structlog
from msgspec import Struct

from service.domain import retry_schedule as schedule
from service.domain.body_budget import BodyBudget
from service.domain.clock import Clock
from service.domain.deliveries.circuit_breaker import DestinationCircuitBreaker
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.ids import DeliveryId, SessionId
from service.domain.write_retry import write_until_stored

log = structlog.get_logger()

_RETRIED = frozenset({408, 425, 429})
_AUTHORISATION = frozenset({401, 403})
# Receivers answer so to a signature whose timestamp is too old or too new: then a clock is wrong, not the
# document or the secret.
_MAY_BE_STALE = frozenset({400, 401})
# Not the mere name of a field: many frameworks' error bodies say when the error was ("timestamp": …).
_TIMESTAMP = re.compile(rb"webhook-timestamp|(?<![</])time[ _-]?stamp(?![\"']\s*:)", re.IGNORECASE)
_HAS_IT_ALREADY = frozenset({"duplicate", "already_exists"})
# Room after the call's own limit for recording what came of it.
_LEASE_MARGIN_SECONDS = 5.0
# A call that took as long and brought nothing counts as one that hung, like one that timed out sooner.
_LONG_MS = 5000
_RECORD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Kind = Literal["delivered", "retry", "dead", "pause", "disable"]


class DeliveryStore(Protocol):
    """Rows of deliveries and attempts."""

    async def claim_deliveries(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Collection[str] = (),
        *,
        max_body_bytes: int,
        takes_any: bool,
    ) -> list[DeliveryJob]:
        """Lease deliveries that are due, but of no tenant or group of silent destinations passed over.

        Large bodies have `max_body_bytes` together; with `takes_any` one may be larger than that.
        """
        ...

    async def next_slot_seconds(self) -> float | None:
        """Seconds until a rate lets go of what is due; None when nothing waits for one."""
        ...

    async def may_leave(self, job: DeliveryJob) -> bool:
        """Whether it is still to be sent: its session was not erased, nobody confirmed it or took it over."""
        ...

    async def withdraw_delivery(self, job: DeliveryJob) -> None:
        """It did not leave after all, and must not count as an attempt."""
        ...

    async def release_delivery(self, job: DeliveryJob) -> None:
        """Its worker stops before the answer came: another one sends it at once."""
        ...

    async def record_attempt(
        self,
        job: DeliveryJob,
        outcome: Answer | CallFailure,
        *,
        status: str,
        wait_seconds: float | None,
        spends_schedule: bool,
        reason: str | None,
        error_class: str | None,
        record_id: str | None,
        pause_destination: bool,
    ) -> bool:
        """Record one attempt and where the delivery stands now; false when the lease was lost."""
        ...


class Sender(Protocol):
    """Makes the call to a destination."""

    async def send(self, job: DeliveryJob, may_leave: Callable[[], Awaitable[bool]]) -> Answer | CallFailure:
        """POST the body, signed; every failure comes back as a CallFailure with its stage.

        `may_leave` is asked when everything is ready and nothing of the request has left; without its consent
        nothing does.
        """
        ...


class Verdict(Struct, frozen=True, kw_only=True):
    """The outcome of one attempt for its delivery; `error_class` is None when the EMR has the document."""

    kind: Kind
    error_class: str | None = None
    record_id: str | None = None
    retry_after_seconds: float | None = None
    # The destination was not asked: the attempt leaves its schedule and its circuit breaker as they were.
    is_ours: bool = False


def judge(outcome: Answer | CallFailure, delivery_id: DeliveryId, *, is_clock_off: bool = False) -> Verdict:
    """Decide what an attempt's outcome means; a pure function.

    `is_clock_off`: this process's clock was off, so the destination may have refused our timestamp alone.
    """
    if isinstance(outcome, CallFailure):
        kind: Kind = "dead" if outcome.is_forbidden else "pause" if outcome.is_refused else "retry"
        return Verdict(kind=kind, error_class=outcome.error_class, is_ours=outcome.is_ours)
    status = outcome.status_code
    if 200 <= status < 300:  # noqa: PLR2004
        return Verdict(kind="delivered", record_id=_record_id(outcome))
    if status == 410:  # noqa: PLR2004
        return Verdict(kind="disable", error_class="gone")
    if status in _MAY_BE_STALE and (is_clock_off or _TIMESTAMP.search(outcome.excerpt)):
        return Verdict(
            kind="retry", error_class="stale_timestamp", retry_after_seconds=outcome.retry_after_seconds
        )
    if status in _AUTHORISATION:
        return Verdict(kind="pause", error_class="unauthorized" if status == 401 else "forbidden")  # noqa: PLR2004
    if status == 409 and _says_duplicate(outcome, delivery_id):  # noqa: PLR2004
        return Verdict(kind="delivered", record_id=_record_id(outcome))
    if status in _RETRIED or status >= 500:  # noqa: PLR2004
        return Verdict(
            kind="retry", error_class=f"http_{status}", retry_after_seconds=outcome.retry_after_seconds
        )
    if 300 <= status < 400:  # noqa: PLR2004
        return Verdict(kind="dead", error_class="redirect")
    return Verdict(kind="dead", error_class=f"http_{status}")


class DeliveryForwarder:
    """Attempts deliveries that are due and records how it went."""

    def __init__(
        self,
        *,
        store: DeliveryStore,
        sender: Sender,
        clock: Clock,
        schedule_seconds: Sequence[float],
        timeout_seconds: float,
        breaker: DestinationCircuitBreaker,
        bodies: BodyBudget,
        is_clock_off: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._bodies = bodies
        self._sender = sender
        self._clock = clock
        self._schedule_seconds = schedule_seconds
        self._breaker = breaker
        self._is_clock_off = is_clock_off
        self._lease_seconds = timeout_seconds + _LEASE_MARGIN_SECONDS

    async def claim(
        self, session_id: SessionId | None, limit: int, passed_over: Collection[str] = ()
    ) -> list[DeliveryJob]:
        """Lease deliveries that are due, of one session or of any, but of no holder that is passed over."""
        jobs = await self._store.claim_deliveries(
            session_id,
            limit,
            self._lease_seconds,
            [*passed_over, *self._bodies.holders_at_quota()],
            max_body_bytes=self._bodies.claimable_bytes(),
            # A body larger than the whole budget must not wait for ever.
            takes_any=not self._bodies.held_bytes,
        )
        for job in jobs:
            self._bodies.acquire(job)
        return jobs

    async def next_slot_seconds(self) -> float | None:
        """Return the seconds until a rate lets go of what is due; None when nothing waits for one."""
        return await self._store.next_slot_seconds()

    async def forward(self, job: DeliveryJob) -> None:
        """Make one attempt at a leased delivery and record it."""
        try:
            await self._attempt(job)
        finally:
            self._bodies.release(job)

    async def _attempt(self, job: DeliveryJob) -> None:
        try:
            outcome = await self._sender.send(job, partial(self._store.may_leave, job))
        except asyncio.CancelledError:
            await asyncio.shield(self._store.release_delivery(job))
            raise
        if isinstance(outcome, CallFailure) and outcome.is_withheld:
            await write_until_stored(partial(self._store.withdraw_delivery, job), self._clock)
            log.info("delivery_withheld", delivery_id=job.id, session_id=job.session_id)
            return
        verdict = judge(outcome, job.id, is_clock_off=self._is_clock_off())
        status, wait, reason = self._consequence(job, verdict)
        recorded = await write_until_stored(
            lambda: self._store.record_attempt(
                job,
                outcome,
                status=status,
                wait_seconds=wait,
                spends_schedule=verdict.kind == "retry" and not job.is_probe and not verdict.is_ours,
                reason=reason,
                error_class=verdict.error_class,
                record_id=verdict.record_id,
                pause_destination=verdict.kind in {"pause", "disable"},
            ),
            self._clock,
        )
        log.info(
            "delivery_attempted",
            tenant_id=job.tenant_id,
            delivery_id=job.id,
            session_id=job.session_id,
            destination_id=job.destination_id,
            type=job.type,
            attempt=job.attempts + 1,
            status_code=outcome.status_code if isinstance(outcome, Answer) else None,
            error_class=verdict.error_class,
            duration_ms=outcome.duration_ms,
            status=status,
            wait_seconds=None if wait is None else round(wait, 3),
            lease_lost=not recorded,
        )
        if verdict.is_ours:
            return
        if verdict.kind == "retry":
            took_long = outcome.duration_ms >= _LONG_MS or verdict.error_class == "timeout"
            await self._breaker.failed(
                job, verdict.error_class or "", verdict.retry_after_seconds, took_long=took_long
            )
        elif isinstance(outcome, Answer):
            await self._breaker.reached(job)

    def _consequence(self, job: DeliveryJob, verdict: Verdict) -> tuple[str, float | None, str | None]:
        """Return the delivery's next status, seconds until its next attempt, and the reason to show."""
        if verdict.kind == "delivered":
            return ("filed" if verdict.record_id else "delivered"), None, None
        if verdict.kind in {"pause", "disable"}:
            return "paused", None, verdict.error_class
        if verdict.kind == "dead":
            return "dead", None, verdict.error_class
        is_unscheduled = job.is_probe or verdict.is_ours
        wait = schedule.delivery_wait(
            self._schedule_seconds,
            # A probe is no attempt of the schedule: it uses none of its attempts up, and is never the last.
            min(job.scheduled + 1, len(self._schedule_seconds)) if is_unscheduled else job.scheduled + 1,
            retry_after_seconds=verdict.retry_after_seconds,
            jitter=self._clock.jitter(),
        )
        if wait is None:
            return "dead", None, f"schedule_used_up: {verdict.error_class}"
        return "pending", wait, verdict.error_class


def _body(outcome: Answer) -> dict[str, Any]:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = msgspec.json.decode(outcome.excerpt)
        if isinstance(decoded, dict):
            return decoded
    return {}


def _record_id(outcome: Answer) -> str | None:
    """Return the EMR's own id of the note, from `Location`, a body `{"id": …}` or a FHIR server's Bundle."""
    body = _body(outcome)
    # A Bundle's own id names the answer, not the note.
    found = _filed_in(body) if body.get("resourceType") == "Bundle" else body.get("id")
    found = _last_segment(outcome.location) if outcome.location else found
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    # Only what looks like an id is kept: it stands in clear, and a path may name a patient.
    return found if isinstance(found, str) and _RECORD_ID.fullmatch(found) else None


def _filed_in(bundle: dict[str, Any]) -> str | None:
    """Return the id that a transaction gave to what stands first in ours: the note, or its failure's Task."""
    entries = bundle.get("entry")
    first = entries[0] if isinstance(entries, list) and entries else None
    response = first.get("response") if isinstance(first, dict) else None
    location = response.get("location") if isinstance(response, dict) else None
    return _last_segment(location) if isinstance(location, str) else None


def _last_segment(location: str) -> str:
    """Return the id at the end of a Location; FHIR's ends with a version, which is not it."""
    return location.partition("?")[0].partition("/_history")[0].rstrip("/").rpartition("/")[2]


def _says_duplicate(outcome: Answer, delivery_id: DeliveryId) -> bool:
    body = _body(outcome)
    error = body.get("error")
    codes = (body.get("code"), error.get("code") if isinstance(error, dict) else error)
    if any(isinstance(code, str) and code in _HAS_IT_ALREADY for code in codes):
        return True
    return outcome.echoed_id == delivery_id or delivery_id.encode() in outcome.excerpt
