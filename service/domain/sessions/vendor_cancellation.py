"""Makes the vendor's cancel call of sessions that are cancelled here (docs/vendor.md#cancel).

updates.py decides whether a session may be cancelled, and cancels it.

The cancel call stays pending in the session's row until the vendor has answered, as a create or an end does.
"""

import asyncio

import structlog

from service.domain.clock import Clock
from service.domain.errors import VendorCallHeldBack, VendorError, VendorRefused
from service.domain.sessions.models import PendingCall
from service.domain.sessions.ports import SessionStore
from service.domain.vendor import Vendor
from service.domain.vendor_calls import reschedule

log = structlog.get_logger()

# An EMR that cancels must not wait for a vendor that hangs; after this time the sweep repeats the call.
CALL_DEADLINE_SECONDS = 10.0
# With these statuses the vendor has nothing left to cancel: it has no such session, or the session is over.
_NOTHING_TO_CANCEL = frozenset({400, 404, 409, 410})
# The retry schedule makes this more than an hour. A session that still runs at the vendor then expires there,
# and the service does not fetch its results.
_MAX_TRIES = 20


class VendorCanceller:
    """Makes pending cancel calls at the vendor."""

    def __init__(self, *, store: SessionStore, vendor: Vendor, clock: Clock) -> None:
        self._store = store
        self._vendor = vendor
        self._clock = clock

    async def cancel_at_vendor(self, pending: PendingCall) -> None:
        """Try a leased cancel call once; reschedule it on failure instead of raising VendorError."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                await self._vendor.cancel_session(pending.account, pending.vendor_id)
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
