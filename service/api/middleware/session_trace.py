"""The trace of a request: its caller's own, or that of the dictation that it belongs to."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.tracing import is_on

_SESSION = re.compile(r"/(ses_[A-Za-z0-9]{12,28})(?=/|$)")
# A dictation's chunks come in one after the other: each asks for what the one before has asked.
_MAX_KNOWN = 10_000

Read = Callable[[SessionId], Awaitable[str | None]]


class SessionTraces:
    """The traceparent that each session was created with; asked once of the database, and only for traces."""

    def __init__(self) -> None:
        self._read: Read | None = None
        self._known: dict[SessionId, str] = {}

    def read_from(self, read: Read) -> None:
        """Ask there from now on."""
        self._read = read

    async def of(self, session_id: SessionId) -> str | None:
        """Return a session's; None when it has none, or nobody can tell."""
        if not is_on() or self._read is None:
            return None
        known = self._known.get(session_id)
        if known is None:
            try:
                known = await self._read(session_id)
            except StoreUnavailable:
                return None
            if known is not None:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[session_id] = known
        return known

    async def of_request(self, scope: Any) -> tuple[str | None, str | None]:
        """Return a request's parent and, where that is the caller's own trace, the session's to link to."""
        headers = {
            name: value for name, value in scope["headers"] if name in {b"traceparent", b"authorization"}
        }
        named = _SESSION.search(scope["path"])
        # Only for who shows a key: nobody else's guesses are worth a look into the database.
        session = await self.of(SessionId(named[1])) if named and b"authorization" in headers else None
        given = headers.get(b"traceparent", b"").decode("latin-1") or None
        return (given, session) if given else (session, None)
