"""Waiting for a session to change: one question to the database for all who wait in a process."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from schemas.emr import Session
from service.domain.errors import StoreUnavailable, TooManyWatchers
from service.domain.ids import SessionId, TenantId

log = structlog.get_logger()

_INTERVAL_SECONDS = 0.2
MAX_WAITERS = 1000
_FINAL = frozenset({"completed", "partial", "failed", "expired", "cancelled"})
# How a partial session stands of which more documents are to come; `sessions.standings` says the same word.
_INCOMPLETE = "incomplete"


def tenant_quota(max_permits: int) -> int:
    """Return how many of so many places one tenant may have: three quarters, so that others find some."""
    return max(1, max_permits * 3 // 4)


def state_token(session: Session) -> str:
    """Return how a session stands: its status, told apart from that of one that is partial for now."""
    is_incomplete = session.status == "partial" and session.completed_at is None
    return _INCOMPLETE if is_incomplete else session.status


def is_final(token: str) -> bool:
    """Return whether a session that stands so will never stand otherwise by itself."""
    return token in _FINAL


@dataclass(eq=False)
class _Waiter:
    """Somebody who waits for another token than this one."""

    token: str
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    found: str | None = None


class ChangePoller:
    """Wakes waiters when a session's token is another one, whichever process changed the session.

    `read` returns a token for each session, any word that changes whenever what one waits for does.
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

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(waiters) for waiters in self._waiting.values())

    @property
    def in_use(self) -> int:
        """How many have a place."""
        return self._permits.total()

    def check_capacity(self, tenant_id: TenantId) -> None:
        """Refuse when all places are taken, or this tenant's share. Raises TooManyWatchers."""
        if self.in_use >= self._max_waiters or self._permits[tenant_id] >= tenant_quota(self._max_waiters):
            raise TooManyWatchers("too many calls wait here for something to happen; try again, or ask later")

    @contextmanager
    def permit(self, tenant_id: TenantId) -> Iterator[None]:
        """Take a place for as long as somebody waits. Raises TooManyWatchers."""
        self.check_capacity(tenant_id)
        self._permits[tenant_id] += 1
        try:
            yield
        finally:
            self._permits[tenant_id] -= 1
            if not self._permits[tenant_id]:
                del self._permits[tenant_id]

    async def changed(self, session_id: SessionId, token: str, timeout_seconds: float) -> str | None:
        """Return the session's new token, or None when the time is over or the process is closing."""
        if self.is_closing:
            return None
        waiter = _Waiter(token)
        self._waiting[session_id].add(waiter)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
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
        """Let everybody go, and hold nobody from now on: the process is closing."""
        self.is_closing = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.woken.set()

    async def stop(self) -> None:
        """Let everybody go and stop looking."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        while self._waiting:
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
            await asyncio.sleep(_INTERVAL_SECONDS)
