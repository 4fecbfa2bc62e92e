"""Creates and ends sessions at the vendor, each exactly once.

A create or an end call that got no answer may have taken effect, and repeating it does harm
(docs/vendor.md#create-twice, docs/vendor.md#end-twice). So the session's row stores each as a pending call
with a lease, and the holder of the lease asks Get Session before it sends the call again. Calls that their
callers did not finish, or that wait for the vendor, are made by pending_calls.py.
"""

import asyncio
from typing import Protocol
from uuid import uuid4

import structlog

from schemas.sessions import SessionCreate, SessionEnd
from schemas.tenants import KeepAudio
from service.domain import retry_schedule as schedule
from service.domain.api_keys.models import Principal
from service.domain.audio.keeping import days_to_keep
from service.domain.clock import Clock
from service.domain.errors import (
    AudioIncomplete,
    AudioMissing,
    NotFound,
    SessionEnded,
    SessionErased,
    SessionExpired,
    SessionNotReady,
    VendorCallHeldBack,
    VendorError,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Lease, SessionId, VendorSessionId, new_vendor_session_id
from service.domain.sessions.models import (
    EndRecorded,
    EndState,
    PendingCall,
    SessionDetails,
    SessionPlan,
    VendorEnd,
    VendorSession,
)
from service.domain.sessions.ports import EndUnit, SessionStore
from service.domain.vendor import Vendor
from service.domain.vendor_calls import call_once_or_probe, check_still_wanted, reschedule

log = structlog.get_logger()

# The service must answer the EMR's call within 60 s, even if the vendor hangs.
CALL_DEADLINE_SECONDS = 50.0
# Shorter, because a create call that takes longer is held and answered all the same.
_CREATE_DEADLINE_SECONDS = 20.0
# Longer than the deadline, so that a lease expires only after its holder has stopped.
PENDING_CALL_LEASE_SECONDS = 60.0
# Sessions expire about an hour after creation (docs/vendor.md#expires), but some servers name no time
# (docs/vendor.md#never-410). A time in the vendor's answer replaces this one.
SESSION_LIFE_SECONDS = 3600.0
# Together longer than a relay's last frames and the vendor's flush (service/domain/streams/relay.py). If the
# vendor hangs, a stream needs longer, until its audio is held (healing.py).
_MAX_STREAM_CHECKS = 150
# A relay records its first audio within this time.
_FIRST_HEARTBEAT_SECONDS = 0.8
# So often the vendor's stream is tried for held audio before a second session gets it.
_MIN_REPLAYS = 4
# So often the end waits for a stream that does not close.
_MIN_WAITS = 4
_STREAM_CHECK_SECONDS = 0.1
_MAX_MISSING_LISTED = 1000
# Audio that could not be handed over for this time ends its session as failed.
HOLD_SECONDS = 86_400.0


def plan_session(
    principal: Principal, request: SessionCreate, session_id: SessionId, keep_audio: KeepAudio
) -> SessionPlan:
    """Fill a request with the tenant's defaults; `keep_audio` holds unless the tenant has its own choice."""
    defaults = principal.defaults
    return SessionPlan(
        id=session_id,
        vendor_id=VendorSessionId(session_id),
        tenant_id=principal.tenant_id,
        account=principal.account,
        upload=request.upload,
        mode=request.mode or defaults.mode,
        model=request.model or defaults.model,
        # An empty list, which only the protocol's clients can send, asks for no template at all.
        templates=list(defaults.templates or [] if request.templates is None else request.templates),
        languages=list(request.languages or defaults.languages),
        transcript_language=request.transcript_language or defaults.transcript_language,
        details=SessionDetails(
            patient=request.patient, reference=request.reference, metadata=request.metadata or {}
        ),
        keep_audio_days=days_to_keep(principal.keep_audio or keep_audio)
        if request.upload != "recording"
        else None,
    )


def missing_sequences(stored: list[int], announced: int | None) -> list[int]:
    """Return the gaps: all sequences below the last one, and below `announced`, that are not stored."""
    expected = max((stored[-1] + 1) if stored else 0, announced or 0)
    have = set(stored)
    return [sequence for sequence in range(expected) if sequence not in have]


class HeldStreams(Protocol):
    """Knows of which streams a part is held."""

    async def replay(self, pending: PendingCall) -> None:
        """Send a held part on the vendor's stream, if there is one. Raises VendorError."""
        ...


class OpenStreams(Protocol):
    """Knows which streams are open, on any pod."""

    async def is_open(self, session_id: SessionId) -> bool:
        """Return whether a client is connected, or the relay is still flushing its last frames."""
        ...


class SessionLifecycle:
    """Creates and ends sessions at the vendor, exactly once each."""

    def __init__(
        self,
        *,
        store: SessionStore,
        streams: "OpenStreams",
        vendor: Vendor,
        clock: Clock,
        reconcile_after_seconds: float,
        late_replay: HeldStreams | None = None,
    ) -> None:
        self._late_replay = late_replay
        self._store = store
        self._streams = streams
        self._vendor = vendor
        self._clock = clock
        self._reconcile_after_seconds = reconcile_after_seconds

    async def create_at_vendor(self, plan: SessionPlan, lease: Lease, *, maybe_sent: bool) -> None:
        """Create a session at the vendor under the lease of its create call, and record the outcome.

        `maybe_sent`: an earlier call may have reached the vendor, so this asks the vendor first. While the
        vendor is away the call is held, and this returns. Raises VendorRefused.
        """
        if plan.upload == "recording":
            # The vendor gets the session when the recording is whole.
            await self._store.begin_upload(plan.id, lease)
            return
        try:
            await self._create(plan, lease, maybe_sent=maybe_sent)
        except VendorRefused as refused:
            await self._store.record_never_created(plan.id, lease, refused.code, refused.detail)
            raise

    async def create_held(self, plan: SessionPlan, lease: Lease) -> None:
        """Create a session at the vendor whose client was answered before the vendor had it.

        While the vendor is away the call stays held. Raises VendorRefused.
        """
        await self._create(plan, lease, maybe_sent=True)

    async def _create(self, plan: SessionPlan, lease: Lease, *, maybe_sent: bool) -> None:
        try:
            async with asyncio.timeout(_CREATE_DEADLINE_SECONDS):
                created = await self._call_create(plan, maybe_sent=maybe_sent)
        except TimeoutError:
            await self._hold_or_raise(
                plan, lease, VendorTimeout("EkaScribe did not answer in time", sent=True)
            )
            return
        except VendorUnreachable as unreachable:
            await self._hold_or_raise(plan, lease, unreachable)
            return
        except asyncio.CancelledError:
            await asyncio.shield(self._reschedule(plan.id, lease, 1))
            raise
        if not await self._store.record_created(plan.id, lease, created):
            if await self._store.is_cancelled(plan.id):
                raise SessionEnded("the session was cancelled or erased while it was being created")
            raise VendorUnavailable("another call took this session over", sent=True)

    async def _hold_or_raise(self, plan: SessionPlan, lease: Lease, error: VendorUnreachable) -> None:
        """Hold the create call: audio for the session is held, too, until the vendor answers."""
        wait = schedule.held_back_wait(error.retry_after_seconds, jitter=self._clock.jitter())
        if not await self._store.hold_create(plan.id, lease, wait):
            if await self._store.is_cancelled(plan.id):
                raise SessionEnded("the session was cancelled or erased while it was being created")
            raise error
        log.info("session_create_held", session_id=plan.id, reason=error.code)

    async def _call_create(self, plan: SessionPlan, *, maybe_sent: bool) -> VendorSession:
        async def probe() -> VendorSession | None:
            found = await self._vendor.get_session(plan.account, plan.vendor_id, UNFILTERED)
            if found.state == "missing":
                return None
            return VendorSession(upload_url=found.upload_url, expires_at=found.expires_at)

        return await call_once_or_probe(
            lambda: self._vendor.create_session(plan),
            probe,
            maybe_sent=maybe_sent,
            clock=self._clock,
            before_repeat=lambda: check_still_wanted(self._store, plan.id),
        )

    async def end(
        self,
        principal: Principal,
        session_id: SessionId,
        request: SessionEnd,
        *,
        min_chunks: int | None = None,
    ) -> None:
        """End a session: check that the audio is complete, then call the vendor, once.

        `min_chunks` is the rule of the protocol: so many chunks must be stored, with any sequences and even
        with `force`; a stream needs no audio (docs/vendor.md#end-stream-zero). The vendor checks no count
        (docs/vendor.md#end-unchecked).
        Raises AudioIncomplete, AudioMissing, SessionExpired, NotFound, or VendorRefused. While the vendor is
        away this returns: the session is ended here, and the sweep makes the vendor's call.
        """
        lease = Lease(uuid4())
        state = await self._begin_end(principal, session_id, request, lease, min_chunks)
        if state is None:
            return
        pending = PendingCall(
            session_id=session_id,
            vendor_id=state.vendor_id,
            tenant_id=principal.tenant_id,
            account=state.account,
            call="end",
            lease=lease,
            attempts=1,
            upload=state.upload,
            chunks=len(state.sequences),
        )
        try:
            await self.finish_end(pending, maybe_sent=state.pending_call == "end")
        except VendorUnreachable as error:
            log.info("session_end_held", session_id=session_id, reason=error.code)

    async def _begin_end(
        self,
        principal: Principal,
        session_id: SessionId,
        request: SessionEnd,
        lease: Lease,
        min_chunks: int | None,
    ) -> EndState | None:
        """Lease the end call and return the session's state; None if another call holds it or has made it."""
        for may_wait in (True, False):
            async with self._store.ending(principal.tenant_id, session_id) as unit:
                if unit is None:
                    raise NotFound("no such session")
                # The holder of an open stream has not reported yet whether audio came; it does so soon.
                is_unreported = unit.state.upload == "stream" and unit.state.has_stream_audio is None
                if not (may_wait and is_unreported and min_chunks is None):
                    is_ours = await self._claim_end(unit, request, lease, min_chunks)
                    return unit.state if is_ours else None
            await self._clock.sleep(_FIRST_HEARTBEAT_SECONDS)
        raise AssertionError("unreachable")  # pragma: no cover - the second round returns or raises

    async def _claim_end(
        self, unit: EndUnit, request: SessionEnd, lease: Lease, min_chunks: int | None
    ) -> bool:
        state = unit.state
        if state.is_erased:
            raise SessionErased("the session was erased")
        if state.status in {"created", "recording"}:
            _check_endable(state, request, min_chunks)
            if state.is_held:
                await unit.begin_held(reconcile_seconds=HOLD_SECONDS + self._reconcile_after_seconds)
                return False
            await unit.begin(
                lease,
                lease_seconds=PENDING_CALL_LEASE_SECONDS,
                reconcile_seconds=self._reconcile_after_seconds,
            )
            return True
        if state.status == "expired":
            raise SessionExpired("the session expired before it was ended")
        if state.status == "cancelled":
            raise SessionEnded("the session was cancelled")
        if not state.was_ended:
            raise SessionEnded("the session failed before it was ended")
        if state.pending_call == "end" and state.pending_call_is_free:
            await unit.take_over(lease, lease_seconds=PENDING_CALL_LEASE_SECONDS)
            return True
        return False

    async def finish_end(self, pending: PendingCall, *, maybe_sent: bool) -> None:
        """Make the end call under its lease, and record the outcome. Raises VendorError."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                if pending.upload == "stream":
                    await self.await_stream(pending)
                    await self._replay_stream(pending)
                    if await self.begins_stream_handover(pending):
                        return
                confirmed = await self._call_end(pending, maybe_sent=maybe_sent)
        except TimeoutError:
            await self._reschedule(pending.session_id, pending.lease, pending.attempts)
            raise VendorTimeout("EkaScribe did not answer in time", sent=True) from None
        except SessionEnded:
            # Cancelled or erased meanwhile: the lease belongs to no call any more, and the cancel is due now.
            await self._reschedule(pending.session_id, pending.lease, pending.attempts)
            return
        except VendorError as error:
            await self._reschedule(pending.session_id, pending.lease, pending.attempts, error)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._reschedule(pending.session_id, pending.lease, pending.attempts))
            raise
        await self._record_end(pending, confirmed)

    async def _record_end(self, pending: PendingCall, confirmed: VendorEnd) -> None:
        """Record the end; make the session again if the vendor lacks chunks whose audio is kept here."""
        recorded = await self._try_record_end(pending, confirmed, may_remake=True)
        if recorded.may_be_remade:
            reason = "audio_incomplete"
            if await self._store.remake(pending.session_id, pending.lease, new_vendor_session_id(), reason):
                log.warning("session_remade", session_id=pending.session_id, reason=reason)
                return
            recorded = await self._try_record_end(pending, confirmed, may_remake=False)
        if recorded.missing is not None:
            log.warning(
                "vendor_holds_fewer_files",
                session_id=pending.session_id,
                chunks=pending.chunks,
                vendor_files=confirmed.files_received,
                missing=len(recorded.missing),
            )

    async def _replay_stream(self, pending: PendingCall) -> None:
        """Send held audio of a stream on the vendor's stream, if the vendor's session has a part of it.

        The second session gets that part instead if the vendor refuses the stream, or if the stream alone is
        away for long. Raises VendorUnreachable.
        """
        if self._late_replay is None:
            return
        try:
            await self._late_replay.replay(pending)
        except VendorRefused as refused:
            log.warning("stream_refused_again", session_id=pending.session_id, status=refused.status)
        except VendorUnreachable as error:
            if pending.attempts < _MIN_REPLAYS or isinstance(error, VendorCallHeldBack):
                raise
            await self._vendor.get_session(pending.account, pending.vendor_id, UNFILTERED)

    async def begins_stream_handover(self, pending: PendingCall) -> bool:
        """Return whether the held audio of an ended stream, which is closed, goes to a second session.

        That is so if the vendor's side of the stream was away at its end (service/domain/streams/holding.py).
        The call that `pending` leased is then replaced by the second session's create call.
        """
        begins = await self._store.begin_stream_handover(
            pending.session_id,
            pending.lease,
            new_vendor_session_id(),
            result_seconds=HOLD_SECONDS + self._reconcile_after_seconds,
        )
        if begins:
            log.info("stream_handed_over_in_chunks", session_id=pending.session_id)
        return begins

    async def _try_record_end(
        self, pending: PendingCall, confirmed: VendorEnd, *, may_remake: bool
    ) -> EndRecorded:
        return await self._store.record_end_confirmed(
            pending.session_id,
            pending.lease,
            confirmed,
            reconcile_seconds=self._reconcile_after_seconds,
            may_remake=may_remake,
        )

    async def await_stream(self, pending: PendingCall) -> None:
        """Wait until an open stream has flushed, because the vendor loses audio that arrives after the end.

        The process that relays the stream polls the session's status and closes the stream after the end.
        Audio that it holds after the end call is handed over by no call. Raises VendorUnavailable: try again.
        """
        for _ in range(_MAX_STREAM_CHECKS):
            if not await self._streams.is_open(pending.session_id):
                return
            await self._clock.sleep(_STREAM_CHECK_SECONDS)
        log.warning("stream_would_not_close", session_id=pending.session_id)
        if pending.attempts < _MIN_WAITS:
            raise VendorUnavailable("the stream's audio is still on its way to EkaScribe", sent=False)

    async def _call_end(self, pending: PendingCall, *, maybe_sent: bool) -> VendorEnd:
        # A stream has no chunks, and the vendor's clients send 0 for it (docs/vendor.md#end-stream-zero).
        files_sent = pending.chunks

        async def probe() -> VendorEnd | None:
            found = await self._vendor.get_session(pending.account, pending.vendor_id, UNFILTERED)
            if found.state in {"open", "missing"}:
                return None
            return found.audio or VendorEnd(files_received=None)

        return await call_once_or_probe(
            lambda: self._vendor.end_session(pending.account, pending.vendor_id, files_sent),
            probe,
            maybe_sent=maybe_sent,
            clock=self._clock,
            before_repeat=lambda: check_still_wanted(self._store, pending.session_id),
        )

    async def _reschedule(
        self, session_id: SessionId, lease: Lease, attempts: int, error: BaseException | None = None
    ) -> None:
        await reschedule(self._store, self._clock, session_id, lease, attempts, error)


def _check_endable(state: EndState, request: SessionEnd, min_chunks: int | None) -> None:
    if state.is_past:
        raise SessionExpired("the session expired before it was ended")
    if state.pending_call == "create" and not state.is_held:
        raise SessionNotReady("EkaScribe has not confirmed this session yet")
    if state.is_changing:
        raise SessionNotReady("a change of this session is on its way to EkaScribe")
    if state.upload == "stream":
        if not state.has_stream_audio and min_chunks is None:
            raise AudioMissing("no audio was streamed")
        return
    if not state.sequences and not request.chunks:
        raise AudioMissing("no audio was uploaded")
    missing = missing_sequences(state.sequences, request.chunks)
    if not state.sequences:
        raise AudioMissing("no audio was uploaded", missing=missing[:_MAX_MISSING_LISTED])
    if min_chunks is not None and len(state.sequences) < min_chunks:
        raise AudioIncomplete(
            f"{min_chunks} files were to be sent, {len(state.sequences)} are stored",
            missing=missing[:_MAX_MISSING_LISTED],
        )
    if missing and not request.force:
        raise AudioIncomplete(
            f'{len(missing)} of the chunks are missing; upload them, or end with "force": true',
            missing=missing[:_MAX_MISSING_LISTED],
        )
