"""Waiting for a session's status to change: one question to the database for all who wait in a process."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

import structlog

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId

log = structlog.get_logger()

_INTERVAL_SECONDS = 0.2
ENDED = frozenset({"completed", "partial", "failed", "expired", "cancelled"})


class StatusWatch:
    """Wakes waiters when a status changes, whichever process changed it."""

    def __init__(self, read: Callable[[list[SessionId]], Awaitable[dict[SessionId, str]]]) -> None:
        self._read = read
        self._waiting: defaultdict[SessionId, set[tuple[str, asyncio.Event]]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    async def changed(self, session_id: SessionId, status: str, timeout_seconds: float) -> None:
        """Return when the session's status is another one, or when the time is over."""
        if status in ENDED:
            return
        entry = (status, asyncio.Event())
        self._waiting[session_id].add(entry)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(timeout_seconds):
                await entry[1].wait()
        except TimeoutError:
            return
        finally:
            self._waiting[session_id].discard(entry)
            if not self._waiting[session_id]:
                del self._waiting[session_id]

    async def stop(self) -> None:
        """Let everybody go: the process is closing."""
        for entries in self._waiting.values():
            for _, event in entries:
                event.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while self._waiting:
            try:
                found = await self._read(list(self._waiting))
            except StoreUnavailable:
                log.warning("watch_waits", reason="store_unavailable")
                found = {}
            for session_id, status in found.items():
                for before, event in self._waiting.get(session_id, ()):
                    if before != status:
                        event.set()
            await asyncio.sleep(_INTERVAL_SECONDS)
