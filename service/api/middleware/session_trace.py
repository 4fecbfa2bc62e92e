"""The trace of a request: its caller's own, or that of the dictation that it belongs to."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.tracing import is_on

_SESSION_IN_PATH = re.compile(r"/(ses_[A-Za-z0-9]{12,28})(?=/|$)")
# A dictation's chunks come in one after the other: each asks for what the one before has asked.
_MAX_CACHED = 10_000

ReadTraceparent = Callable[[SessionId], Awaitable[str | None]]


class SessionTraces:
    """The traceparent that each session was created with; asked once of the database, and only for traces."""

    def __init__(self) -> None:
        self._read: ReadTraceparent | None = None
        self._cache: dict[SessionId, str] = {}

    def set_reader(self, read: ReadTraceparent) -> None:
        """Ask there from now on."""
        self._read = read

    async def traceparent_of(self, session_id: SessionId) -> str | None:
        """Return a session's; None when it has none, or nobody can tell."""
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
        """Return a request's parent and, where that is the caller's own trace, the session's to link to."""
        headers = {
            name: value for name, value in scope["headers"] if name in {b"traceparent", b"authorization"}
        }
        match = _SESSION_IN_PATH.search(scope["path"])
        # Only for who shows a key: nobody else's guesses are worth a look into the database.
        of_session = (
            await self.traceparent_of(SessionId(match[1])) if match and b"authorization" in headers else None
        )
        given = headers.get(b"traceparent", b"").decode("latin-1") or None
        return (given, of_session) if given else (of_session, None)
