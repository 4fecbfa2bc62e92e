"""Makes the pending vendor calls of sessions: those that no caller finished, and those that are held.

A session's pending calls follow one another: create, handover of held audio, end; a cancel replaces them. The
worker that holds the lease of a call makes it; the sweep finds calls whose lease has run out.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_never

import structlog

from service.domain import retry_schedule as schedule
from service.domain.audio.handover import AudioHandover
from service.domain.clock import Clock
from service.domain.errors import (
    BridgeError,
    EncryptionKeyMissing,
    Overloaded,
    RecordingTooLong,
    RecordingUnreadable,
    SessionEnded,
    VendorCallHeldBack,
    VendorError,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import UNFILTERED, SessionId, VendorSessionId
from service.domain.recordings.cutting import RecordingCutter
from service.domain.recordings.models import StoredRecording
from service.domain.sessions.lifecycle import (
    CALL_DEADLINE_SECONDS,
    HOLD_SECONDS,
    PENDING_CALL_LEASE_SECONDS,
    SessionLifecycle,
)
from service.domain.sessions.models import PendingCall, VendorSession
from service.domain.sessions.ports import SessionStore
from service.domain.sessions.vendor_cancellation import VendorCanceller
from service.domain.vendor import Vendor
from service.domain.vendor_calls import CALLING_TENANT, reschedule

log = structlog.get_logger()

# After so many tries a pending create that nobody waits for counts as failed.
_MAX_TRIES = 20
# A doctor waits for held audio. While the vendor is down, the circuit breaker limits the calls.
_MAX_WAIT_WHILE_HELD_SECONDS = 15.0
# A process that reads a recording may crash or be too slow by chance, so one that could be read is cut again.
_MAX_CUT_TRIES = 3
# A recording waits so long for a slot of this worker, or another worker takes it.
_BUSY_SECONDS = 2.0


class PendingCalls:
    """Makes pending calls, one per session at a time."""

    # A recording of an hour takes longer to cut than a lease lasts. An attribute, so that tests can lower it.
    renew_seconds = PENDING_CALL_LEASE_SECONDS / 4

    def __init__(
        self,
        *,
        store: SessionStore,
        lifecycle: SessionLifecycle,
        vendor: Vendor,
        handover: AudioHandover,
        cutter: RecordingCutter,
        fail: Callable[[SessionId, VendorSessionId, str], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`fail` ends a session as failed, for the reason of a code, and tells the destinations.

        With the code `vendor_session_missing` it makes the session again at the vendor instead, if all of its
        audio is here.
        """
        self._store = store
        self._lifecycle = lifecycle
        self._vendor = vendor
        self._handover = handover
        self._cutter = cutter
        self._canceller = VendorCanceller(store=store, vendor=vendor, clock=clock)
        self._fail = fail
        self._clock = clock

    async def process(self, pending: PendingCall) -> None:
        """Make a leased call; reschedule it on failure instead of raising VendorError.

        A worker that lacks an encryption key leaves the call to another worker, without counting a try.
        """
        CALLING_TENANT.set(pending.tenant_id)
        try:
            await self._make(pending)
        except EncryptionKeyMissing as error:
            self._log_failed(pending, error)
            wait = schedule.MISSING_KEY_SECONDS
            await self._store.release_pending_call(pending.session_id, pending.lease, wait)

    async def _make(self, pending: PendingCall) -> None:
        is_handover = pending.call == "audio" or (
            pending.call == "create" and pending.held_seconds is not None
        )
        if pending.upload == "stream" and is_handover:
            with contextlib.suppress(VendorUnavailable):  # not all of its audio is held; its end call waits
                await self._lifecycle.await_stream(pending)
                if await self._lifecycle.begins_stream_handover(pending):
                    return
        match pending.call:
            case "create":
                await (self._resolve_create if pending.held_seconds is None else self._create_held)(pending)
            case "audio":
                await self._hand_over(pending)
            case "end":
                try:
                    await self._lifecycle.finish_end(pending, maybe_sent=True)
                except VendorError as error:
                    self._log_failed(pending, error)
            case "cancel":
                await self._canceller.cancel_at_vendor(pending)
            case _ as unknown:
                assert_never(unknown)

    async def _resolve_create(self, pending: PendingCall) -> None:
        # The EMR never got this session's id, so nobody waits for it: ask for the session, do not create it.
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                found = await self._vendor.get_session(pending.account, pending.vendor_id, UNFILTERED)
        except (TimeoutError, VendorError) as error:
            if pending.attempts >= _MAX_TRIES and not isinstance(error, VendorCallHeldBack):
                await self._give_up_create(pending)
            else:
                await self._reschedule(pending, error)
            return
        if found.state == "missing":
            await self._give_up_create(pending)
        else:
            created = VendorSession(upload_url=found.upload_url, expires_at=found.expires_at)
            await self._store.record_created(pending.session_id, pending.lease, created)

    async def _give_up_create(self, pending: PendingCall) -> None:
        await self._store.record_never_created(
            pending.session_id, pending.lease, "vendor_unavailable", "EkaScribe never had this session"
        )

    async def _create_held(self, pending: PendingCall) -> None:
        """Create a session whose client was answered already; its held audio follows."""
        plan = await self._store.read_plan(pending.session_id, pending.lease)
        if plan is None or await self._is_held_too_long(pending):
            return
        try:
            await self._lifecycle.create_held(plan, pending.lease)
        except VendorRefused as refused:
            self._log_failed(pending, refused)
            await self._fail(pending.session_id, pending.vendor_id, "vendor_error")
        except (VendorError, SessionEnded) as error:
            self._log_failed(pending, error)
            await self._reschedule(pending, error)

    async def _hand_over(self, pending: PendingCall) -> None:
        """Cut a recording that is not cut yet, and upload the held chunks, until none is left."""
        if await self._is_held_too_long(pending):
            return
        recording = None
        try:
            recording = await self._cutter.find(pending)
            if recording is not None and self._cutter.is_busy:
                await self._store.release_pending_call(pending.session_id, pending.lease, _BUSY_SECONDS)
                return
            if recording is not None:
                await self._while_leased(pending, self._cutter.cut(pending, recording))
            while await self._upload_all(pending):
                if await self._handover.finish(pending):
                    return
            # The lease was lost: a cancel that waited for this call is due now.
            await self._reschedule(pending, None)
        except VendorRefused as refused:
            self._log_failed(pending, refused)
            await self._fail(pending.session_id, pending.vendor_id, "vendor_session_missing")
        except (RecordingUnreadable, RecordingTooLong) as refused:
            await self._record_unreadable(pending, recording, refused)
        except (VendorError, SessionEnded, Overloaded) as error:
            self._log_failed(pending, error)
            await self._reschedule(pending, error)
        except asyncio.CancelledError:
            await asyncio.shield(self._reschedule(pending, None))
            raise

    async def _record_unreadable(
        self, pending: PendingCall, recording: StoredRecording | None, refused: BridgeError
    ) -> None:
        """Fail the session of a recording that cannot be cut; if it could be read before, try a few times."""
        self._log_failed(pending, refused)
        was_readable = recording is not None and recording.seconds is not None
        if was_readable and pending.attempts < _MAX_CUT_TRIES:
            await self._reschedule(pending, refused)
        else:
            await self._fail(pending.session_id, pending.vendor_id, refused.code)

    async def _upload_all(self, pending: PendingCall) -> bool:
        """Upload what is held now; return whether the lease still holds. Raises VendorError."""
        while (chunk := await self._handover.next_chunk(pending)) is not None:
            if not await self._renew(pending):
                return False
            try:
                async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                    await self._handover.upload(pending, chunk)
            except TimeoutError:
                raise VendorTimeout("EkaScribe did not take the chunk in time", sent=True) from None
        return await self._renew(pending)

    async def _while_leased(self, pending: PendingCall, work: Coroutine[Any, Any, None]) -> None:
        """Do work that takes long, and renew the lease meanwhile; raises SessionEnded if it was lost."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait([task], timeout=self.renew_seconds))[0]:
                if not await self._renew(pending):
                    raise SessionEnded("the session was cancelled or erased meanwhile")
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        await task

    async def _renew(self, pending: PendingCall) -> bool:
        lease_seconds = PENDING_CALL_LEASE_SECONDS
        return await self._store.renew_pending_call(pending.session_id, pending.lease, lease_seconds)

    async def _is_held_too_long(self, pending: PendingCall) -> bool:
        """Fail a session whose audio nobody could hand over for a day; return whether it failed."""
        if pending.held_seconds is None or pending.held_seconds < HOLD_SECONDS:
            return False
        log.error("held_audio_given_up", session_id=pending.session_id, call=pending.call)
        await self._fail(pending.session_id, pending.vendor_id, "vendor_unavailable")
        return True

    def _log_failed(self, pending: PendingCall, error: BridgeError) -> None:
        log.warning(
            "owed_call_failed",
            session_id=pending.session_id,
            call=pending.call,
            attempts=pending.attempts,
            error=error.code,
        )

    async def _reschedule(self, pending: PendingCall, error: BaseException | None) -> None:
        max_seconds = _MAX_WAIT_WHILE_HELD_SECONDS if pending.held_seconds is not None else float("inf")
        await reschedule(
            self._store,
            self._clock,
            pending.session_id,
            pending.lease,
            pending.attempts,
            error,
            max_seconds=max_seconds,
        )
