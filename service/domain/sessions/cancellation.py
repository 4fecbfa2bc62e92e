"""Tells the vendor that a session was cancelled (docs/vendor.md#cancel).

Until the vendor knows, the call is pending, as a create or an end is.
"""

import asyncio

import structlog

from service.domain.errors import VendorCallHeldBack, VendorError, VendorRefused
from service.domain.models import PendingCall
from service.domain.ports import Clock, SessionStore, Vendor
from service.domain.vendor_calls import reschedule

log = structlog.get_logger()

# Whoever cancels is not kept waiting for a vendor that hangs: the sweep goes on telling it.
CALL_DEADLINE_SECONDS = 10.0
# Answers of a vendor that has nothing left to cancel: no such session, or one that is over.
_NOTHING_TO_CANCEL = frozenset({400, 404, 409, 410})
# By the schedule, more than an hour. What then runs on at the vendor ends by itself, and nobody fetches it.
_MAX_TRIES = 20


class SessionCanceller:
    """Tells the vendor of cancelled sessions."""

    def __init__(self, *, store: SessionStore, vendor: Vendor, clock: Clock) -> None:
        self._store = store
        self._vendor = vendor
        self._clock = clock

    async def cancel_at_vendor(self, pending: PendingCall) -> None:
        """Make one try at a cancel call that is ours; never raises a VendorError."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                await self._vendor.cancel_session(pending.account, pending.session_id)
        except VendorCallHeldBack as error:
            await reschedule(
                self._store, self._clock, pending.session_id, pending.lease, pending.attempts, error
            )
            return
        except (TimeoutError, VendorError) as error:
            is_settled = isinstance(error, VendorRefused) and error.status in _NOTHING_TO_CANCEL
            log.warning(
                "cancel_call_failed",
                session_id=pending.session_id,
                attempts=pending.attempts,
                error=error.code if isinstance(error, VendorError) else "vendor_timeout",
                is_over=is_settled or pending.attempts >= _MAX_TRIES,
            )
            if not is_settled and pending.attempts < _MAX_TRIES:
                await self._reschedule(pending)
                return
        except asyncio.CancelledError:
            await asyncio.shield(self._reschedule(pending))
            raise
        await self._store.record_cancel_settled(pending.session_id, pending.lease)

    async def _reschedule(self, pending: PendingCall) -> None:
        await reschedule(self._store, self._clock, pending.session_id, pending.lease, pending.attempts)
