"""Waits for sessions to change.

One task polls the database for all waiters of a process, so that many waiters cost one query per interval.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context
from dataclasses import dataclass, field

import structlog

from schemas.sessions import Session
from service.concurrency.fair_semaphore import FairSemaphore
from service.domain.errors import StoreUnavailable, TooManyWatchers
from service.domain.ids import SessionId, TenantId

log = structlog.get_logger()

_INTERVAL_SECONDS = 0.2
# Sessions with very many rows make a poll slow: polling uses a sixth of the database's time at most.
_REST_FACTOR = 5
_MAX_READING = 2
MAX_WAITERS = 1000
_FINAL = frozenset({"completed", "partial", "failed", "expired", "cancelled"})
# The state token of a partial session with documents still to come. The SQL statement `sessions.standings`
# returns the same word.
_INCOMPLETE = "incomplete"


def tenant_quota(max_permits: int) -> int:
    """Return how many permits one tenant may hold: three quarters, so that other tenants get some."""
    return max(1, max_permits * 3 // 4)


def state_token(session: Session) -> str:
    """Return a session's status, or `incomplete` for a partial session with documents still to come."""
    is_incomplete = session.status == "partial" and session.completed_at is None
    return _INCOMPLETE if is_incomplete else session.status


def is_final(token: str) -> bool:
    """Return whether a session with this state token will not change by itself any more."""
    return token in _FINAL


@dataclass(eq=False)
class _Waiter:
    """A caller that waits until the session's token differs from this one."""

    token: str
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    found: str | None = None


class ChangePoller:
    """Wakes waiters when a session's token changes, even if another process changed the session.

    `read` returns the current token of each session: any text that changes together with the state that the
    caller waits for.
    """

    def __init__(
        self,
        read: Callable[[list[SessionId]], Awaitable[dict[SessionId, str]]],
        *,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        self._read = read
        self._max_waiters = max_waiters
        self._permits: Counter[TenantId] = Counter()
        self._waiting: defaultdict[SessionId, set[_Waiter]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self.is_closing = False
        # Held while a page of a timeline is read and encoded, so that many streams at once leave the event
        # loop and the database to other calls. Tenants take turns: one tenant's streams delay no other's.
        self._reading = FairSemaphore(_MAX_READING)

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return sum(len(waiters) for waiters in self._waiting.values())

    @property
    def in_use(self) -> int:
        """The number of permits that are held."""
        return self._permits.total()

    def check_capacity(self, tenant_id: TenantId) -> None:
        """Raise TooManyWatchers if all permits, or all of this tenant's quota, are held."""
        if self.in_use >= self._max_waiters or self._permits[tenant_id] >= tenant_quota(self._max_waiters):
            raise TooManyWatchers("too many calls wait here for something to happen; try again, or ask later")

    @contextmanager
    def permit(self, tenant_id: TenantId) -> Iterator[None]:
        """Hold a permit inside the block. Raises TooManyWatchers."""
        self.check_capacity(tenant_id)
        self._permits[tenant_id] += 1
        try:
            yield
        finally:
            self._permits[tenant_id] -= 1
            if not self._permits[tenant_id]:
                del self._permits[tenant_id]

    def reading(self, tenant_id: TenantId) -> AbstractAsyncContextManager[None]:
        """Hold the permit to read and encode one page of a timeline."""
        return self._reading.permit(tenant_id)

    async def changed(self, session_id: SessionId, token: str, timeout_seconds: float) -> str | None:
        """Return the session's new token, or None after the timeout or when the process is closing."""
        if self.is_closing:
            return None
        waiter = _Waiter(token)
        self._waiting[session_id].add(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), context=Context())
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter.woken.wait()
        except TimeoutError:
            return None
        finally:
            self._waiting[session_id].discard(waiter)
            if not self._waiting[session_id]:
                del self._waiting[session_id]
        return waiter.found

    def close(self) -> None:
        """Wake all waiters and accept no new ones: the process is closing."""
        self.is_closing = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.woken.set()

    async def stop(self) -> None:
        """Wake all waiters and stop polling."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            began = loop.time()
            try:
                found = await self._read(list(self._waiting))
            except StoreUnavailable:
                log.warning("watch_waits", reason="store_unavailable")
                found = {}
            for session_id, token in found.items():
                for waiter in self._waiting.get(session_id, ()):
                    if waiter.token != token:
                        waiter.found = token
                        waiter.woken.set()
            await asyncio.sleep(max(_INTERVAL_SECONDS, _REST_FACTOR * (loop.time() - began)))
