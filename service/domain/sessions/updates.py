"""Changes, cancels and erases sessions on request of their tenant."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import uuid4

from msgspec.structs import replace

from schemas.sessions import SessionChange, SessionStatus
from service.domain.api_keys.models import Principal
from service.domain.clock import Clock
from service.domain.errors import (
    ENDED_AT_VENDOR,
    InvalidRequest,
    NotFound,
    SessionEnded,
    SessionErased,
    SessionExpired,
    SessionNotReady,
    TemplatesFixed,
    VendorRefused,
    VendorTimeout,
)
from service.domain.ids import KeyId, Lease, SessionId, TenantId
from service.domain.sessions.creation import check_fields
from service.domain.sessions.lifecycle import CALL_DEADLINE_SECONDS, PENDING_CALL_LEASE_SECONDS
from service.domain.sessions.models import ChangeState, PendingCall, SessionDetails
from service.domain.sessions.ports import SessionStore
from service.domain.sessions.vendor_cancellation import VendorCanceller
from service.domain.vendor import Vendor, VendorLimits
from service.domain.vendor_calls import call_with_retry, check_still_wanted
from service.domain.vendor_limits import Limits, check_limits

# Longer than the deadline of the vendor's call, so that a lease ends only when its holder is gone.
_CHANGE_LEASE_SECONDS = 60.0
_RUNNING = frozenset({"created", "recording", "processing"})


class ChangeUnit(Protocol):
    """A session's locked row, for checking and then changing its state in one transaction."""

    state: ChangeState

    def details(self) -> SessionDetails:
        """Decrypt the session's details; an erasure does not call this, so it works without the key."""
        ...

    async def lease_change(self, lease: Lease, lease_seconds: float) -> None:
        """Lease the right to change the session; meanwhile no other call may change or end it."""
        ...

    async def cancel(self, lease: Lease | None, lease_seconds: float) -> None:
        """Cancel the session and store its cancel call as pending.

        The lease makes the call ours; with None the call is due when the present pending call is finished.
        """
        ...

    async def erase(self, actor: KeyId) -> SessionStatus:
        """Delete all data of the session that could identify a person; return the status that remains."""
        ...


class ChangeStore(Protocol):
    """Rows of sessions that change."""

    def locked(
        self, tenant_id: TenantId, session_id: SessionId, *, to_erase: bool = False
    ) -> AbstractAsyncContextManager[ChangeUnit | None]:
        """Lock a session; None when the tenant has no such session.

        `to_erase` also locks the rows that an erasure needs, before the session, which avoids deadlocks.
        """
        ...

    async def record_change(
        self,
        principal: Principal,
        session_id: SessionId,
        lease: Lease,
        change: SessionChange,
        details: SessionDetails,
    ) -> bool:
        """Record a change that the vendor accepted; False if the lease was lost or the session is over."""
        ...

    async def release_change(self, session_id: SessionId, lease: Lease) -> None:
        """End the lease without a change: the vendor refused it, or the outcome is unknown."""
        ...


class SessionUpdates:
    """Changes, cancels and erases sessions."""

    def __init__(
        self,
        *,
        store: ChangeStore,
        sessions: SessionStore,
        vendor: Vendor,
        clock: Clock,
        limits: VendorLimits,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._vendor = vendor
        self._clock = clock
        self._limits = limits
        self._canceller = VendorCanceller(store=sessions, vendor=vendor, clock=clock)

    async def change(self, principal: Principal, session_id: SessionId, change: SessionChange) -> None:
        """Change a session that has not ended, at the vendor first, then here.

        Raises InvalidRequest, NotFound, SessionErased, SessionEnded, SessionExpired, TemplatesFixed,
        SessionNotReady while another change or the create call is under way, or VendorError. After an error
        nothing has changed here; after either of the last two the caller may repeat the call.
        """
        check_fields(templates=change.templates, patient=change.patient)
        if change.languages is not None and not change.languages:
            # Some servers require a language (docs/vendor.md#languages-required). An empty list at create
            # stands for the tenant's default; a change has no default.
            raise InvalidRequest("must name a language", field="languages")
        if change.patient is not None and not change.patient:
            # An empty patient would delete the patient at the vendor (docs/vendor.md#patch-empty-patient);
            # without sending it, the vendor and our row would differ.
            raise InvalidRequest("must not be empty", field="patient")
        limits = await self._limits.limits()
        lease = Lease(uuid4())
        async with self._store.locked(principal.tenant_id, session_id) as unit:
            state = _state_of(unit)
            _check_changeable(state)
            change = _changed_templates(change, state, limits)
            if unit is None or change == SessionChange():
                return
            if change.model is not None or change.languages is not None:
                check_limits(
                    limits,
                    model=change.model or state.model,
                    languages=change.languages or state.languages,
                    transcript_language=None,
                )
            details = unit.details()
            await unit.lease_change(lease, _CHANGE_LEASE_SECONDS)
        try:
            await self._change_at_vendor(state, session_id, change)
        except BaseException:
            await asyncio.shield(self._store.release_change(session_id, lease))
            raise
        if change.patient is not None:
            details = replace(details, patient=change.patient)
        if not await self._store.record_change(principal, session_id, lease, change, details):
            await self._raise_unrecorded(principal, session_id)

    async def _change_at_vendor(
        self, state: ChangeState, session_id: SessionId, change: SessionChange
    ) -> None:
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                await call_with_retry(
                    lambda: self._vendor.change_session(state.account, state.vendor_id, change),
                    clock=self._clock,
                    before_repeat=lambda: check_still_wanted(self._sessions, session_id),
                )
        except TimeoutError:
            raise VendorTimeout("EkaScribe did not answer in time", sent=True) from None
        except VendorRefused as refused:
            if refused.vendor_code in ENDED_AT_VENDOR:
                raise SessionEnded("EkaScribe takes no more changes of this session") from refused
            if refused.status == 410:  # noqa: PLR2004
                raise SessionExpired("the session expired at EkaScribe before it was ended") from refused
            raise

    async def _raise_unrecorded(self, principal: Principal, session_id: SessionId) -> None:
        """Raise the reason why a change that the vendor accepted was not recorded here."""
        async with self._store.locked(principal.tenant_id, session_id) as unit:
            _check_changeable(_state_of(unit))
        raise SessionNotReady("another change overtook this one; make it again")

    async def cancel(self, principal: Principal, session_id: SessionId) -> None:
        """Cancel a session that still runs; the service fetches none of its later results.

        This calls the vendor at once; if the vendor cannot be reached, the sweep repeats the call. Cancelling
        again does nothing. Raises NotFound, SessionErased, or SessionEnded for a session in a final status.
        """
        lease = Lease(uuid4())
        async with self._store.locked(principal.tenant_id, session_id) as unit:
            state = _state_of(unit)
            if unit is None or state.status == "cancelled":
                return
            if not _still_runs(state):
                raise SessionEnded(f"the session is {state.status}; only what still runs can be cancelled")
            await unit.cancel(_lease_for_cancel(state, lease), PENDING_CALL_LEASE_SECONDS)
        await self._cancel_at_vendor(principal, state, session_id, lease)

    async def erase(self, principal: Principal, session_id: SessionId) -> SessionStatus:
        """Erase a session and all of its data for good; cancel the session if it still runs.

        Returns the status that the session keeps. Raises NotFound, or SessionErased if it was erased before.
        """
        lease = Lease(uuid4())
        async with self._store.locked(principal.tenant_id, session_id, to_erase=True) as unit:
            state = _state_of(unit)
            if unit is None:  # pragma: no cover - _state_of has raised
                raise NotFound("no such session")
            runs = _still_runs(state)
            if runs:
                await unit.cancel(_lease_for_cancel(state, lease), PENDING_CALL_LEASE_SECONDS)
            status = await unit.erase(principal.key_id)
        if runs:
            await self._cancel_at_vendor(principal, state, session_id, lease)
        return status

    async def _cancel_at_vendor(
        self, principal: Principal, state: ChangeState, session_id: SessionId, lease: Lease
    ) -> None:
        if _lease_for_cancel(state, lease) is None:
            return
        await self._canceller.cancel_at_vendor(
            PendingCall(
                session_id=session_id,
                vendor_id=state.vendor_id,
                tenant_id=principal.tenant_id,
                account=state.account,
                call="cancel",
                lease=lease,
                attempts=1,
                upload=state.upload,
                chunks=0,
            )
        )


def _still_runs(state: ChangeState) -> bool:
    """Return whether the vendor may still work on the session, even if some of its documents are here."""
    return state.status in _RUNNING or (state.status == "partial" and not state.is_final)


def _lease_for_cancel(state: ChangeState, lease: Lease) -> Lease | None:
    """Return the lease for the cancel call, or None while another call may still be on its way.

    Such a call could arrive after the cancel and start the session again. The sweep makes the cancel call
    when the other call is finished.
    """
    may_arrive = state.pending_call == "create" or (
        state.pending_call in {"audio", "end"} and not state.pending_call_is_free
    )
    return None if may_arrive else lease


def _state_of(unit: ChangeUnit | None) -> ChangeState:
    if unit is None:
        raise NotFound("no such session")
    if unit.state.is_erased:
        raise SessionErased("the session was erased")
    return unit.state


def _changed_templates(change: SessionChange, state: ChangeState, limits: Limits) -> SessionChange:
    """Refuse new templates for a server that would accept them and then make no document (ADR 026)."""
    if change.templates is None or not limits.templates_are_fixed:
        return change
    if set(change.templates) != set(state.templates):
        raise TemplatesFixed(
            "this EkaScribe server makes documents only of the templates that a session was created with; "
            "create a new session, or ask for the other template after the end"
        )
    return replace(change, templates=None)


def _check_changeable(state: ChangeState) -> None:
    if state.status == "expired" or (state.is_past and state.status in {"created", "recording"}):
        raise SessionExpired("the session expired before it was ended")
    if state.status not in {"created", "recording"}:
        raise SessionEnded("the session takes no more changes")
    if state.pending_call is not None:
        raise SessionNotReady("EkaScribe has not confirmed this session yet")
    if state.is_changing:
        raise SessionNotReady("another change of this session is on its way to EkaScribe")
