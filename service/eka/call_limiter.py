"""Limits each account's calls to the vendor: so many at once, and none while the circuit breaker is open.

A call first passes the circuit breaker (circuit_breaker.py) and then acquires a permit. Uploads have permits
of their own, as many as all other calls together, so that slow uploads delay no session's end and slow
answers no upload. A call without a permit waits in a queue that is bounded in length and time; if the queue
is full or the breaker is open, the call fails at once and nothing is sent. Each process has limiters of its
own.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Literal

import structlog
from msgspec import Struct, field

from service.domain.errors import VendorCallHeldBack, VendorLimited, VendorRefused, VendorUnreachable
from service.domain.ids import DEFAULT_ACCOUNT, Account, TenantId
from service.domain.sessions.change_polling import tenant_quota
from service.domain.vendor_calls import CALLING_TENANT
from service.eka.circuit_breaker import VendorCircuitBreaker, VendorCircuitBreakerRule
from service.eka.metrics import CALLS, OPEN_CIRCUIT_GAUGES, Operation

log = structlog.get_logger()

Kind = Literal["upload", "other"]

# Together with the vendor's own time-outs this stays well within the 60 s in which an EMR is answered.
MAX_QUEUE_SECONDS = 5.0
# The queue is as long as so many times the permits: more calls could not be served in the time for which
# they may wait.
_QUEUE_FACTOR = 2
_TRY_AGAIN_SECONDS = 2.0
_TOO_MANY_REQUESTS, _SERVER_ERRORS = 429, 500


class _Permits(Struct, kw_only=True):
    """The permits of one kind of call and their queue, in which a waiter gets true with its permit.

    One tenant of a shared account has three quarters of both at most.
    """

    size: int
    is_shared: bool
    in_use: Counter[TenantId | None] = field(default_factory=Counter)
    queue: deque[tuple[TenantId | None, asyncio.Future[bool]]] = field(default_factory=deque)

    def acquire(self, tenant: TenantId | None) -> bool:
        """Count a call at once if a permit is free for its tenant."""
        is_free = self.in_use.total() < self.size and self.in_use[tenant] < self._most(tenant, self.size)
        if is_free:
            self.in_use[tenant] += 1
        return is_free

    def may_wait(self, tenant: TenantId | None) -> bool:
        """Return whether the queue has room for one more call of a tenant."""
        most = _QUEUE_FACTOR * self.size
        waiting = sum(each == tenant for each, _ in self.queue)
        return len(self.queue) < most and waiting < self._most(tenant, most)

    def release(self, tenant: TenantId | None) -> None:
        """Give a tenant's permit back, to the call that has waited longest of those that may have one."""
        self.in_use[tenant] -= 1
        if not self.in_use[tenant]:
            del self.in_use[tenant]
        for each in list(self.queue):
            other, waiting = each
            if waiting.done():
                self.queue.remove(each)
            elif self.acquire(other):
                self.queue.remove(each)
                waiting.set_result(True)
                return

    def _most(self, tenant: TenantId | None, number: int) -> int:
        return tenant_quota(number) if self.is_shared and tenant is not None else number

    def reject(self, is_held_back: Callable[[TenantId | None], bool]) -> None:
        """Fail every call that waits and that the circuit breaker, which opened, would not let through."""
        kept = [each for each in self.queue if not is_held_back(each[0])]
        for tenant, waiting in self.queue:
            if is_held_back(tenant) and not waiting.done():
                waiting.set_result(False)
        self.queue = deque(kept)


class CallPermit:
    """The right to make one call, which reports the call's answer to the circuit breaker."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after_seconds: float | None = None

    def record_answer(self, status: int, retry_after_seconds: float | None = None) -> None:
        """Report the status of the vendor's answer, and its Retry-After."""
        self.status, self.retry_after_seconds = status, retry_after_seconds


class _AccountLimiter:
    """The permits and the circuit breaker of one account."""

    def __init__(
        self,
        account: Account,
        *,
        max_calls: int,
        max_queue_seconds: float,
        rule: VendorCircuitBreakerRule,
        now: Callable[[], float],
    ) -> None:
        self.breaker = VendorCircuitBreaker(rule)
        self._account = account
        self._now = now
        self._max_queue_seconds = max_queue_seconds
        self._permits: dict[Kind, _Permits] = {
            "upload": _Permits(size=max_calls, is_shared=account == DEFAULT_ACCOUNT),
            "other": _Permits(size=max_calls, is_shared=account == DEFAULT_ACCOUNT),
        }
        self._is_reported_open = False

    @asynccontextmanager
    async def permit(self, kind: Kind, operation: Operation, session: str) -> AsyncIterator[CallPermit]:
        tenant = CALLING_TENANT.get()
        self._check_breaker(operation, tenant)
        await self._acquire(kind, operation, tenant)
        try:
            # The breaker may have opened while this call waited, or another call may be the probe.
            self._check_breaker(operation, tenant)
            began = self._now()
            self.breaker.record_start(began, tenant)
            permit = CallPermit()
            try:
                yield permit
            except VendorLimited as error:
                self.breaker.record_limit(self._now(), began, session, error.retry_after_seconds, tenant)
                raise
            except VendorUnreachable as error:
                self.breaker.record_failure(self._now(), began, session, error.retry_after_seconds, tenant)
                raise
            except VendorRefused:
                # The login was refused, which is an answer as well.
                self.breaker.record_answer(self._now(), tenant)
                raise
            else:
                self._record(permit, began, session, tenant)
            finally:
                self._reject_held_back(tenant)
                self._report_state(operation, tenant)
        finally:
            self._permits[kind].release(tenant)

    def _record(self, permit: CallPermit, began: float, session: str, tenant: TenantId | None) -> None:
        now, retry_after = self._now(), permit.retry_after_seconds
        if permit.status == _TOO_MANY_REQUESTS:
            self.breaker.record_limit(now, began, session, retry_after, tenant)
        elif permit.status is not None and permit.status >= _SERVER_ERRORS:
            self.breaker.record_failure(now, began, session, retry_after, tenant)
        else:
            self.breaker.record_answer(now, tenant)

    def _check_breaker(self, operation: Operation, tenant: TenantId | None) -> None:
        wait = self.breaker.wait_seconds(self._now(), tenant)
        if wait:
            raise self._held_back(operation, tenant, wait)
        self._report_state(operation, tenant)

    def _held_back(
        self, operation: Operation, tenant: TenantId | None, wait_seconds: float
    ) -> VendorCallHeldBack:
        CALLS.labels(operation, "gate_closed").inc()
        is_down = self.breaker.is_down_for(tenant)
        reason = "EkaScribe is not reachable" if is_down else "EkaScribe limits our calls"
        return VendorCallHeldBack(f"{reason}; it is tried again soon", retry_after_seconds=wait_seconds)

    async def _acquire(self, kind: Kind, operation: Operation, tenant: TenantId | None) -> None:
        permits = self._permits[kind]
        if permits.acquire(tenant):
            return
        if not permits.may_wait(tenant):
            raise self._queue_full(operation)
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        permits.queue.append((tenant, waiting))
        try:
            async with asyncio.timeout(self._max_queue_seconds):
                has_permit = await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled() and waiting.result():
                permits.release(tenant)  # the permit came at the moment at which this call gave up
            elif (tenant, waiting) in permits.queue:
                permits.queue.remove((tenant, waiting))
            if isinstance(error, TimeoutError):
                raise self._queue_full(operation) from None
            raise
        if not has_permit:
            wait = self.breaker.wait_seconds(self._now(), tenant)
            raise self._held_back(operation, tenant, wait or _TRY_AGAIN_SECONDS)

    def _queue_full(self, operation: Operation) -> VendorCallHeldBack:
        CALLS.labels(operation, "line_full").inc()
        return VendorCallHeldBack(
            "too many calls to EkaScribe are under way", retry_after_seconds=_TRY_AGAIN_SECONDS
        )

    def _reject_held_back(self, tenant: TenantId | None) -> None:
        """Reject the waiting calls that the breaker holds back, if it does so for the tenant of this call."""
        now = self._now()
        if self.breaker.wait_seconds(now, tenant):
            for permits in self._permits.values():
                permits.reject(lambda each: self.breaker.wait_seconds(now, each) > 0)

    def _report_state(self, operation: Operation, tenant: TenantId | None) -> None:
        """Log and count once that the breaker opened or closed, for any tenant or the whole account."""
        now = self._now()
        is_open = self.breaker.is_open(now)
        if is_open == self._is_reported_open:
            return
        self._is_reported_open = is_open
        # Where several processes share a port, nothing calls the function that CallLimiters registered, and
        # the gauge keeps this value.
        for gauge in OPEN_CIRCUIT_GAUGES:
            gauge.labels(_account_label(self._account)).inc(1 if is_open else -1)
        if not is_open:
            log.info("vendor_gate_opened", account=self._account)
            return
        log.warning(
            "vendor_gate_closed",
            account=self._account,
            cause="down" if self.breaker.is_down_for(tenant) else "limited",
            operation=operation,
            wait_seconds=round(self.breaker.wait_seconds(now, tenant), 3),
        )


class CallLimiters:
    """The call limiters of all accounts in this process."""

    def __init__(
        self,
        *,
        max_calls: int,
        max_queue_seconds: float = MAX_QUEUE_SECONDS,
        rule: VendorCircuitBreakerRule | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_calls`: how many uploads, and how many other calls, an account may have under way at once."""
        self._now = now
        self._make = partial(
            _AccountLimiter,
            max_calls=max_calls,
            max_queue_seconds=max_queue_seconds,
            rule=rule or VendorCircuitBreakerRule(),
            now=now,
        )
        self._limiters: dict[Account, _AccountLimiter] = {}
        for gauge in OPEN_CIRCUIT_GAUGES:
            for label in ("default", "own"):
                gauge.labels(label).set_function(partial(self._count_open, label))

    def permit(
        self, account: Account, kind: Kind, operation: Operation, session: str
    ) -> AbstractAsyncContextManager[CallPermit]:
        """Hold a permit for one call, which reports its answer; `session` is the session or address called.

        Raises VendorCallHeldBack when the breaker is open or too many calls wait.
        """
        limiter = self._limiters.get(account)
        if limiter is None:
            limiter = self._limiters[account] = self._make(account)
        return limiter.permit(kind, operation, session)

    def held_back_accounts(self) -> list[Account]:
        """Return the accounts for which no call may be made now; `tenant:…` is one tenant of an account.

        An account that is open as a whole is passed over only until tenants may probe it. Were it passed over
        until the vendor answers, then no worker would make the call that learns of the answer.
        """
        now, breakers = self._now(), {account: each.breaker for account, each in self._limiters.items()}
        accounts = [account for account, breaker in breakers.items() if breaker.wait_seconds(now)]
        tenants = {each for breaker in breakers.values() for each in breaker.held_back_tenants(now)}
        return accounts + [Account(f"tenant:{each}") for each in sorted(tenants)]

    def _count_open(self, label: str) -> int:
        now = self._now()
        return sum(
            each.breaker.is_open(now)
            for account, each in list(self._limiters.items())
            if _account_label(account) == label
        )


def _account_label(account: Account) -> str:
    return "default" if account == DEFAULT_ACCOUNT else "own"
