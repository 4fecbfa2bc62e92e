"""The way to the vendor, one gate for each account: so many calls at once, and none while it is down.

Every call for an account passes its gate: first the circuit (circuit_breaker.py), then a place. Uploads
have places of their own, as many as all other calls together, so that slow uploads hold up no session's end,
and slow answers no upload. Who finds no place waits in a line, bounded in length and in time; who finds it
full, or the gate closed, is told at once, with nothing sent. Each process has gates of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Literal

import structlog
from msgspec import Struct, field

from service.domain.errors import VendorGateClosed, VendorLimited, VendorRefused, VendorUnreachable
from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.eka.circuit_breaker import Circuit, CircuitRule
from service.eka.metrics import CALLS, GATES_CLOSED, Operation

log = structlog.get_logger()

Kind = Literal["upload", "other"]

# With the vendor's own time-outs this stays well within the 60 s in which an EMR is answered.
LINE_SECONDS = 5.0
# The line is as long as so many times the places: more could not be served in the time that they may wait.
_LINE_FACTOR = 2
_TRY_AGAIN_SECONDS = 2.0
_TOO_MANY_REQUESTS, _SERVER_ERRORS = 429, 500


class _Places(Struct, kw_only=True):
    """The places of one kind of calls, and who waits for one: true is a place, false a closed gate."""

    size: int
    busy: int = 0
    line: deque[asyncio.Future[bool]] = field(default_factory=deque)

    def leave(self) -> None:
        """Give a place back, to whoever has waited longest."""
        while self.line:
            waiting = self.line.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return
        self.busy -= 1

    def send_away(self) -> None:
        """Tell all who wait that there is no point in it."""
        for waiting in self.line:
            if not waiting.done():
                waiting.set_result(False)
        self.line.clear()


class CallPermit:
    """One call on its way: it says what it heard."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.retry_after_seconds: float | None = None

    def heard(self, status: int, retry_after_seconds: float | None = None) -> None:
        """The vendor answered."""
        self.status, self.retry_after_seconds = status, retry_after_seconds


class _Gate:
    """One account's gate."""

    def __init__(
        self,
        account: Account,
        *,
        places: int,
        line_seconds: float,
        rule: CircuitRule,
        now: Callable[[], float],
    ) -> None:
        self.circuit = Circuit(rule)
        self._account = account
        self._now = now
        self._line_seconds = line_seconds
        self._places: dict[Kind, _Places] = {"upload": _Places(size=places), "other": _Places(size=places)}
        self._is_told_closed = False

    @asynccontextmanager
    async def passage(self, kind: Kind, operation: Operation, session: str) -> AsyncIterator[CallPermit]:
        self._check_open(operation)
        await self._take_place(kind, operation)
        try:
            # It may have closed while this call waited, or another may be the probe.
            self._check_open(operation)
            began = self._now()
            self.circuit.begin(began)
            passage = CallPermit()
            try:
                yield passage
            except VendorLimited as error:
                self.circuit.limited(self._now(), began, session, error.retry_after_seconds)
                raise
            except VendorUnreachable as error:
                self.circuit.failed(self._now(), began, session, error.retry_after_seconds)
                raise
            except VendorRefused:
                self.circuit.answered(self._now())  # the login was refused: that is an answer, too
                raise
            else:
                self._judge(passage, began, session)
            finally:
                self._tell(operation)
        finally:
            self._places[kind].leave()

    def _judge(self, passage: CallPermit, began: float, session: str) -> None:
        now, asked = self._now(), passage.retry_after_seconds
        if passage.status == _TOO_MANY_REQUESTS:
            self.circuit.limited(now, began, session, asked)
        elif passage.status is not None and passage.status >= _SERVER_ERRORS:
            self.circuit.failed(now, began, session, asked)
        else:
            self.circuit.answered(now)

    def _check_open(self, operation: Operation) -> None:
        wait = self.circuit.closed_seconds(self._now())
        if wait:
            raise self._closed(operation, wait)
        self._tell(operation)

    def _closed(self, operation: Operation, wait_seconds: float) -> VendorGateClosed:
        CALLS.labels(operation, "gate_closed").inc()
        reason = "EkaScribe is not reachable" if self.circuit.is_down else "EkaScribe limits our calls"
        return VendorGateClosed(f"{reason}; it is tried again soon", retry_after_seconds=wait_seconds)

    async def _take_place(self, kind: Kind, operation: Operation) -> None:
        places = self._places[kind]
        if places.busy < places.size:
            places.busy += 1
            return
        if len(places.line) >= _LINE_FACTOR * places.size:
            raise self._crowded(operation)
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        places.line.append(waiting)
        try:
            async with asyncio.timeout(self._line_seconds):
                has_place = await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled() and waiting.result():
                places.leave()  # it came at the moment at which we went
            elif waiting in places.line:
                places.line.remove(waiting)
            if isinstance(error, TimeoutError):
                raise self._crowded(operation) from None
            raise
        if not has_place:
            raise self._closed(operation, self.circuit.closed_seconds(self._now()) or _TRY_AGAIN_SECONDS)

    def _crowded(self, operation: Operation) -> VendorGateClosed:
        CALLS.labels(operation, "line_full").inc()
        return VendorGateClosed(
            "too many calls to EkaScribe are under way", retry_after_seconds=_TRY_AGAIN_SECONDS
        )

    def _tell(self, operation: Operation) -> None:
        """Say in the log that the gate closed or opened, once."""
        wait = self.circuit.closed_seconds(self._now())
        is_closed = self.circuit.is_down or wait > 0
        if is_closed == self._is_told_closed:
            return
        self._is_told_closed = is_closed
        # Where several processes share a port, nobody calls the function that Gates gave: the value is told.
        of = GATES_CLOSED.labels("default" if self._account == DEFAULT_ACCOUNT else "own")
        of.inc(1 if is_closed else -1)
        if not is_closed:
            log.info("vendor_gate_opened", account=self._account)
            return
        for places in self._places.values():
            places.send_away()
        cause = "down" if self.circuit.is_down else "limited"
        log.warning(
            "vendor_gate_closed",
            account=self._account,
            cause=cause,
            operation=operation,
            wait_seconds=round(wait, 3),
        )


class CallLimiters:
    """The gates of all accounts in this process."""

    def __init__(
        self,
        *,
        places: int,
        line_seconds: float = LINE_SECONDS,
        rule: CircuitRule | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._make = partial(
            _Gate, places=places, line_seconds=line_seconds, rule=rule or CircuitRule(), now=now
        )
        self._call_limiters: dict[Account, _Gate] = {}
        GATES_CLOSED.labels("default").set_function(lambda: self._closed_count(is_default=True))
        GATES_CLOSED.labels("own").set_function(lambda: self._closed_count(is_default=False))

    def passage(
        self, account: Account, kind: Kind, operation: Operation, session: str
    ) -> AbstractAsyncContextManager[CallPermit]:
        """Hold a place for one call, which says what it `heard`; `session`: what the call is about.

        Raises VendorGateClosed when no call may be made, or too many are.
        """
        return self._gate(account).passage(kind, operation, session)

    def closed_accounts(self) -> list[Account]:
        """Return the accounts whose calls would be refused now."""
        now = self._now()
        return [account for account, gate in self._call_limiters.items() if gate.circuit.closed_seconds(now)]

    def _gate(self, account: Account) -> _Gate:
        gate = self._call_limiters.get(account)
        if gate is None:
            gate = self._call_limiters[account] = self._make(account)
        return gate

    def _closed_count(self, *, is_default: bool) -> int:
        now = self._now()
        return sum(
            gate.circuit.is_down or gate.circuit.closed_seconds(now) > 0
            for account, gate in list(self._call_limiters.items())
            if (account == DEFAULT_ACCOUNT) == is_default
        )
