"""Fetches the results of finished sessions again, and makes the fetches of ended sessions due at once."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from schemas.sessions import SessionStatus
from service.domain.errors import NotFound, SessionErased, SessionNotFinished
from service.domain.ids import SessionId, TenantId
from service.domain.wakeups import Wakeups

# An official client polls each second (docs/vendor.md#client-polling), and any caller may refresh in a loop,
# so at most one call per session goes to the vendor in this time.
_MIN_SECONDS_BETWEEN_CALLS = 5.0


class Refreshed(Struct, frozen=True, kw_only=True):
    """The state of a session at a request to refresh it; `is_requested`: the call is due."""

    status: SessionStatus
    is_erased: bool
    is_requested: bool


class RefreshStore(Protocol):
    """Rows of Get Session calls that a caller can make due again."""

    async def refresh(
        self, tenant_id: TenantId, session_id: SessionId, actor: str, seconds: float
    ) -> Refreshed | None:
        """Make the unfiltered call due so many seconds after the last one, with its audit entry.

        None when the tenant has no such session.
        """
        ...

    async def hurry(self, tenant_id: TenantId, session_id: SessionId, seconds: float) -> bool:
        """Make the calls of an ended session due that were not made in the last `seconds`."""
        ...


class RefreshableStore(RefreshStore, Protocol):
    """A RefreshStore that also finds sessions for which the vendor may have more results."""

    async def ended_badly(
        self, tenant_id: TenantId | None, since: datetime, limit: int
    ) -> list[tuple[TenantId, SessionId]]:
        """Return sessions created since then that are partial, failed or expired, oldest first."""
        ...


class ResultRefresher:
    """Schedules new fetches of results; they store new documents and versions, and change nothing else."""

    def __init__(self, *, store: RefreshStore, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups

    async def refresh(self, tenant_id: TenantId, session_id: SessionId, actor: str) -> None:
        """Schedule a new fetch of the results. Raises NotFound, SessionErased or SessionNotFinished."""
        found = await self._store.refresh(tenant_id, session_id, actor, _MIN_SECONDS_BETWEEN_CALLS)
        if found is None:
            raise NotFound("no such session")
        if found.is_erased:
            raise SessionErased("the session was erased")
        if not found.is_requested:
            raise SessionNotFinished(f"the session is {found.status}; only an ended one has results")
        self._wakeups.results_due(session_id)

    async def hurry(self, tenant_id: TenantId, session_id: SessionId) -> None:
        """Make the fetches of an ended session due now, because a caller waits for its results."""
        if await self._store.hurry(tenant_id, session_id, _MIN_SECONDS_BETWEEN_CALLS):
            self._wakeups.results_due(session_id)
