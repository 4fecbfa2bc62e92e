"""Finds the trace that a request belongs to: the caller's own trace, or the trace of its session."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.tracing import is_on

_SESSION_IN_PATH = re.compile(r"/(ses_[A-Za-z0-9]{12,28})(?=/|$)")
# The chunks of a dictation arrive one after the other and all need the same traceparent.
_MAX_CACHED = 10_000

ReadTraceparent = Callable[[SessionId], Awaitable[str | None]]


class SessionTraces:
    """Reads and caches the traceparent that each session was created with, as long as tracing is on."""

    def __init__(self) -> None:
        self._read: ReadTraceparent | None = None
        self._cache: dict[SessionId, str] = {}

    def set_reader(self, read: ReadTraceparent) -> None:
        """Set the function that reads a session's traceparent; the store opens after this object is made."""
        self._read = read

    async def traceparent_of(self, session_id: SessionId) -> str | None:
        """Return a session's traceparent; None if it has none or the database cannot be reached."""
        if not is_on() or self._read is None:
            return None
        traceparent = self._cache.get(session_id)
        if traceparent is None:
            try:
                traceparent = await self._read(session_id)
            except StoreUnavailable:
                return None
            if traceparent is not None:
                if len(self._cache) >= _MAX_CACHED:
                    self._cache.clear()
                self._cache[session_id] = traceparent
        return traceparent

    async def parent_and_link(self, scope: Any) -> tuple[str | None, str | None]:
        """Return a request's parent trace and the trace to link to, both as traceparents.

        The caller's trace is the parent if the request brings one; the session's trace is linked then.
        Otherwise the session's trace is the parent.
        """
        headers = {
            name: value for name, value in scope["headers"] if name in {b"traceparent", b"authorization"}
        }
        match = _SESSION_IN_PATH.search(scope["path"])
        # A request without a key must not cause a query: anybody could send guessed session ids.
        of_session = (
            await self.traceparent_of(SessionId(match[1])) if match and b"authorization" in headers else None
        )
        from_caller = headers.get(b"traceparent", b"").decode("latin-1") or None
        return (from_caller, of_session) if from_caller else (of_session, None)
