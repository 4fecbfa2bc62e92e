"""Asks the vendor again about a session that is over, or hurries the calls of one that is not."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from schemas.emr import SessionStatus
from service.domain.errors import NotFound, SessionErased, SessionNotFinished
from service.domain.ids import SessionId, TenantId
from service.domain.ports import Wakeups

# An official client polls each second (docs/vendor.md#client-polling), and anybody may refresh in a loop: the
# vendor is called at most once in so many seconds.
_MIN_SECONDS_BETWEEN_CALLS = 5.0


class Refreshed(Struct, frozen=True, kw_only=True):
    """How a session stood when the vendor was to be asked again, and whether it will be."""

    status: SessionStatus
    is_erased: bool
    is_requested: bool


class RefreshStore(Protocol):
    """Rows of Get Session calls that are made once more."""

    async def refresh(
        self, tenant_id: TenantId, session_id: SessionId, actor: str, seconds: float
    ) -> Refreshed | None:
        """Make the unfiltered call due so many seconds after the last one, with its audit entry.

        None when the tenant has no such session.
        """
        ...

    async def hurry(self, tenant_id: TenantId, session_id: SessionId, seconds: float) -> bool:
        """Make the calls of an ended session due that were not made for so many seconds."""
        ...


class RefreshableStore(RefreshStore, Protocol):
    """The same, and which sessions may have more at the vendor than here."""

    async def ended_badly(
        self, tenant_id: TenantId | None, since: datetime, limit: int
    ) -> list[tuple[TenantId, SessionId]]:
        """Sessions created since then that are partial, failed or expired, oldest first."""
        ...


class ResultRefresher:
    """Has results fetched again: new documents and versions are filed, what is the same changes nothing."""

    def __init__(self, *, store: RefreshStore, wakeups: Wakeups) -> None:
        self._store = store
        self._nudges = wakeups

    async def refresh(self, tenant_id: TenantId, session_id: SessionId, actor: str) -> None:
        """Ask the vendor again. Raises NotFound, SessionErased or SessionNotFinished."""
        found = await self._store.refresh(tenant_id, session_id, actor, _MIN_SECONDS_BETWEEN_CALLS)
        if found is None:
            raise NotFound("no such session")
        if found.is_erased:
            raise SessionErased("the session was erased")
        if not found.is_requested:
            raise SessionNotFinished(f"the session is {found.status}; only an ended one has results")
        self._nudges.results_due(session_id)

    async def hurry(self, tenant_id: TenantId, session_id: SessionId) -> None:
        """Have the results of an ended session asked for now: somebody waits for them."""
        if await self._store.hurry(tenant_id, session_id, _MIN_SECONDS_BETWEEN_CALLS):
            self._nudges.results_due(session_id)
