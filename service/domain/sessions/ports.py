"""The ports to the stored sessions."""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from service.domain.ids import Account, Lease, SessionId, TenantId, VendorSessionId
from service.domain.sessions.models import (
    EndRecorded,
    EndState,
    PendingCall,
    SessionPlan,
    VendorEnd,
    VendorSession,
)


class SessionStore(Protocol):
    """Rows of sessions."""

    async def insert_session(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> bool:
        """Insert the session with its create call pending; False when the id exists already."""
        ...

    async def begin_upload(self, session_id: SessionId, lease: Lease) -> None:
        """Begin the upload of a session's recording; until it is whole, no vendor call is pending."""
        ...

    async def claim_pending_create(
        self, tenant_id: TenantId, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> VendorSessionId | None:
        """Lease a pending create call, and return the session's id at the vendor; None if it is held."""
        ...

    async def record_created(self, session_id: SessionId, lease: Lease, found: VendorSession) -> bool:
        """Record that the vendor has the session; False when the lease was lost."""
        ...

    async def hold_create(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        """Hold a create call that the vendor did not answer, due again after so many seconds.

        The session takes audio meanwhile. False when the lease was lost.
        """
        ...

    async def read_plan(self, session_id: SessionId, lease: Lease) -> SessionPlan | None:
        """Return the plan of a held create call; None when the lease was lost."""
        ...

    async def renew_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        """Renew the lease of a pending call; False when it was lost."""
        ...

    async def record_never_created(
        self, session_id: SessionId, lease: Lease, code: str, message: str
    ) -> None:
        """Fail the session, because the vendor does not have it."""
        ...

    async def is_cancelled(self, session_id: SessionId) -> bool:
        """Return whether the session was cancelled, or erased while it ran."""
        ...

    async def reschedule_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Release a call with an unclear outcome, and make it due after so many seconds."""
        ...

    async def release_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Make a call that was not sent due after so many seconds, without counting a try."""
        ...

    def ending(
        self, tenant_id: TenantId, session_id: SessionId
    ) -> AbstractAsyncContextManager["EndUnit | None"]:
        """Lock a session in order to end it; None when the tenant has no such session."""
        ...

    async def begin_stream_handover(
        self,
        session_id: SessionId,
        lease: Lease,
        vendor_id: VendorSessionId,
        *,
        result_seconds: float,
    ) -> bool:
        """Replace a call of an ended stream whose audio is held by the create call of a second session.

        No result is fetched before `result_seconds` from now. False if nothing is held or the lease was lost.
        """
        ...

    async def record_end_confirmed(
        self,
        session_id: SessionId,
        lease: Lease,
        confirmed: VendorEnd,
        *,
        reconcile_seconds: float,
        may_remake: bool,
    ) -> EndRecorded:
        """Record that the vendor confirmed the end, and the files that it holds.

        No fetch of a result comes later than `reconcile_seconds` from now. With `may_remake` this records
        nothing if the vendor lacks a chunk and the session may be made again: then call `remake`.
        """
        ...

    async def remake(
        self, session_id: SessionId, lease: Lease, vendor_id: VendorSessionId, reason: str
    ) -> bool:
        """Make the session again at the vendor, as SettleUnit.remake does, under the lease of its end."""
        ...

    async def record_cancel_settled(self, session_id: SessionId, lease: Lease) -> None:
        """Record that no cancel call is pending: the vendor confirmed it, or needs none any more."""
        ...

    async def claim_pending_calls(
        self, limit: int, lease_seconds: float, passed_over: Collection[Account] = ()
    ) -> list[PendingCall]:
        """Lease pending calls that are due; skip the accounts and `tenant:…` names in `passed_over`."""
        ...


class EndUnit(Protocol):
    """A session's locked row, for checking and ending it in one transaction."""

    state: EndState

    async def begin(self, lease: Lease, *, lease_seconds: float, reconcile_seconds: float) -> None:
        """End the session: lease its end call, and schedule a fetch of each result after the wait."""
        ...

    async def begin_held(self, *, reconcile_seconds: float) -> None:
        """End the session here only: the end call follows when the vendor has all held audio."""
        ...

    async def take_over(self, lease: Lease, *, lease_seconds: float) -> None:
        """Lease an end call that another caller did not finish."""
        ...
