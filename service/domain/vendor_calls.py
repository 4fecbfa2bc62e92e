"""Retries of vendor calls, among them calls that must not take effect twice."""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from service.domain import retry_schedule as schedule
from service.domain.clock import Clock
from service.domain.errors import LONGEST_WAIT_SECONDS, SessionEnded, VendorCallHeldBack, VendorUnreachable
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.sessions.ports import SessionStore

T = TypeVar("T")
# The tenant for which the current task calls the vendor; None for calls that serve no single tenant.
CALLING_TENANT: ContextVar[TenantId | None] = ContextVar("ekabridge_calling_tenant", default=None)
# Raises an error if the call must not be repeated, because its session was cancelled or erased meanwhile.
BeforeRepeat = Callable[[], Awaitable[None]]
# The same for a first call of the current task that had to wait before it could leave.
BEFORE_LATE_CALL: ContextVar[BeforeRepeat | None] = ContextVar("ekabridge_before_late_call", default=None)

_TRIES = 3


async def call_once_or_probe(
    call: Callable[[], Awaitable[T]],
    probe: Callable[[], Awaitable[T | None]],
    *,
    maybe_sent: bool,
    clock: Clock,
    before_repeat: BeforeRepeat,
) -> T:
    """Make a call that must not take effect twice: after a try without an answer, probe before repeating it.

    `probe` returns the result of the call if it took effect, else None. `before_repeat` raises when the call
    must not be made again; the session may also be erased while the probe runs. Raises VendorError.
    """
    for attempt in range(1, _TRIES + 1):
        is_repeat = attempt > 1 or maybe_sent
        try:
            if maybe_sent:
                found = await probe()
                if found is not None:
                    return found
                maybe_sent = False
            if is_repeat:
                await before_repeat()
            try:
                with checked_when_late(before_repeat):
                    return await call()
            except VendorUnreachable as error:
                maybe_sent = error.sent
                raise
        except VendorUnreachable as error:
            await wait_before_repeat(attempt, error, clock)
    raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises


async def call_with_retry(
    call: Callable[[], Awaitable[T]], *, clock: Clock, before_repeat: BeforeRepeat
) -> T:
    """Make a call that is harmless to repeat, a few times at most. Raises VendorError.

    `before_repeat` raises when the call must not be made again.
    """
    for attempt in range(1, _TRIES + 1):
        if attempt > 1:
            await before_repeat()
        try:
            with checked_when_late(before_repeat):
                return await call()
        except VendorUnreachable as error:
            await wait_before_repeat(attempt, error, clock)
    raise AssertionError("unreachable")  # pragma: no cover - the last attempt returns or raises


@contextmanager
def checked_when_late(check: BeforeRepeat) -> Iterator[None]:
    """Have calls of this block checked that wait in a queue or for a login: data may be erased meanwhile."""
    token = BEFORE_LATE_CALL.set(check)
    try:
        yield
    finally:
        BEFORE_LATE_CALL.reset(token)


async def check_still_wanted(store: SessionStore, session_id: SessionId) -> None:
    """Refuse to repeat a call of a session that was cancelled, or erased while it ran. Raises SessionEnded.

    A retry may wait for a minute, and erased data must not reach the vendor after the answer to the erasure.
    """
    if await store.is_cancelled(session_id):
        raise SessionEnded("the session was cancelled or erased meanwhile")


async def wait_before_repeat(attempt: int, error: VendorUnreachable, clock: Clock) -> None:
    """Wait as long as the vendor asks; raise the error after the last try, or if the wait is too long.

    While an open circuit breaker holds calls back, this does not wait, because too many calls would pile up.
    """
    asked = error.retry_after_seconds or 0.0
    if attempt == _TRIES or asked > LONGEST_WAIT_SECONDS or isinstance(error, VendorCallHeldBack):
        raise error
    wait = schedule.jittered(0.2 * 3.0 ** (attempt - 1), clock.jitter())
    await clock.sleep(max(wait, asked))


async def reschedule(
    store: SessionStore,
    clock: Clock,
    session_id: SessionId,
    lease: Lease,
    attempts: int,
    error: BaseException | None = None,
    *,
    max_seconds: float = math.inf,
) -> None:
    """Leave a pending call to the sweep, with a longer wait after each try, up to `max_seconds`.

    A call that an open circuit breaker held back does not count as a try.
    """
    if isinstance(error, VendorCallHeldBack):
        wait = schedule.held_back_wait(error.retry_after_seconds, jitter=clock.jitter())
        await store.release_pending_call(session_id, lease, wait)
        return
    wait = schedule.error_wait(
        attempts + 2, retry_after_seconds=None, jitter=clock.jitter(), max_seconds=max_seconds
    )
    await store.reschedule_pending_call(session_id, lease, wait)
