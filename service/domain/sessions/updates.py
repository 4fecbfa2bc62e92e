"""What becomes of a session by its owner's will: changed before its end, cancelled, erased."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import uuid4

from msgspec.structs import replace

from schemas.emr import SessionChange, SessionStatus
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
from service.domain.models import ChangeState, PendingCall, Principal, SessionDetails
from service.domain.ports import Clock, SessionStore, Vendor, VendorLimits
from service.domain.sessions.cancellation import SessionCanceller
from service.domain.sessions.creation import check_fields
from service.domain.sessions.lifecycle import CALL_DEADLINE_SECONDS, PENDING_CALL_LEASE_SECONDS
from service.domain.vendor_calls import call_with_retry
from service.domain.vendor_limits import Limits, check_limits

# Longer than the deadline of the vendor's call, so that a lease ends only when its holder is gone.
_CHANGE_LEASE_SECONDS = 60.0
_RUNNING = frozenset({"created", "recording", "processing"})


class ChangeUnit(Protocol):
    """A session's row, locked, while it is decided what may become of it."""

    state: ChangeState

    def details(self) -> SessionDetails:
        """Open what it is about; an erasure must not need that."""
        ...

    async def lease_change(self, lease: Lease, lease_seconds: float) -> None:
        """Only we may change it now, and nobody may end it."""
        ...

    async def cancel(self, lease: Lease | None, lease_seconds: float) -> None:
        """Cancel it; the vendor is owed the call: ours, or with None due when the present is over."""
        ...

    async def erase(self, actor: KeyId) -> SessionStatus:
        """Take out everything that identifies anybody, everywhere; return the status that stays."""
        ...


class ChangeStore(Protocol):
    """Rows of sessions that change."""

    def locked(
        self, tenant_id: TenantId, session_id: SessionId, *, to_erase: bool = False
    ) -> AbstractAsyncContextManager[ChangeUnit | None]:
        """Lock a session, and to erase it what has to be locked before; None when the tenant has none."""
        ...

    async def record_change(
        self,
        principal: Principal,
        session_id: SessionId,
        lease: Lease,
        change: SessionChange,
        details: SessionDetails,
    ) -> bool:
        """The vendor has the change; false when the lease was lost or the session is over."""
        ...

    async def release_change(self, session_id: SessionId, lease: Lease) -> None:
        """The vendor does not have it, or nobody knows: the session may be changed again."""
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
        self._vendor = vendor
        self._clock = clock
        self._limits = limits
        self._canceller = SessionCanceller(store=sessions, vendor=vendor, clock=clock)

    async def change(self, principal: Principal, session_id: SessionId, change: SessionChange) -> None:
        """Change a session that has not ended, at the vendor first, then here.

        Raises InvalidRequest, NotFound, SessionErased, SessionEnded, SessionExpired, TemplatesFixed,
        SessionNotReady while another change or the create call is under way, or VendorError; then nothing has
        changed here, and after one of the last two the same call may be made again.
        """
        check_fields(templates=change.templates, patient=change.patient)
        if change.languages is not None and not change.languages:
            # Some servers demand one (docs/vendor.md#languages-required); at create none means the tenant's.
            raise InvalidRequest("must name a language", field="languages")
        if change.patient is not None and not change.patient:
            # Sent as it is, it would wipe the patient at the vendor (docs/vendor.md#patch-empty-patient); not
            # sent, the two would differ.
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
                    lambda: self._vendor.change_session(state.account, session_id, change), clock=self._clock
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
        """Say why a change that the vendor took was not recorded here."""
        async with self._store.locked(principal.tenant_id, session_id) as unit:
            _check_changeable(_state_of(unit))
        raise SessionNotReady("another change overtook this one; make it again")

    async def cancel(self, principal: Principal, session_id: SessionId) -> None:
        """Cancel a session that still runs; what the vendor makes of it is not fetched any more.

        The vendor is told at once or, when it cannot be reached, by the sweep. Cancelling again does nothing.
        Raises NotFound, SessionErased, or SessionEnded for one that has its ending.
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
        """Erase a session and everything of it, for good; what still runs is cancelled.

        Returns the status that it keeps. Raises NotFound, or SessionErased when that was done before.
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
    """Whether the vendor may be at work on it: also when some of its documents are here."""
    return state.status in _RUNNING or (state.status == "partial" and not state.is_final)


def _lease_for_cancel(state: ChangeState, lease: Lease) -> Lease | None:
    """Return the lease for the cancel call, or None while a create or an end may still be on its way.

    That call could arrive after the cancel and start the session anew; the sweep cancels when it is over.
    """
    may_arrive = state.pending_call == "create" or (
        state.pending_call == "end" and not state.pending_call_is_free
    )
    return None if may_arrive else lease


def _state_of(unit: ChangeUnit | None) -> ChangeState:
    if unit is None:
        raise NotFound("no such session")
    if unit.state.is_erased:
        raise SessionErased("the session was erased")
    return unit.state


def _changed_templates(change: SessionChange, state: ChangeState, limits: Limits) -> SessionChange:
    """Keep new templates from a server that would take them and then make no document at all (ADR 026)."""
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
