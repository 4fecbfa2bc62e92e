"""Tells the vendor that a session was cancelled (docs/vendor.md#cancel).

Until the vendor knows, the call is owed, as a create or an end is.
"""

import asyncio

import structlog

from service.domain.errors import VendorCallHeldBack, VendorError, VendorRefused
from service.domain.models import PendingCall
from service.domain.ports import Clock, SessionStore, Vendor
from service.domain.vendor_calls import postpone

log = structlog.get_logger()

# Whoever cancels is not kept waiting for a vendor that hangs: the sweep goes on telling it.
CALL_DEADLINE_SECONDS = 10.0
# Answers of a vendor that has nothing left to cancel: no such session, or one that is over.
_NOTHING_TO_CANCEL = frozenset({400, 404, 409, 410})
# By the schedule, more than an hour. What then runs on at the vendor ends by itself, and nobody fetches it.
_MAX_TRIES = 20


class Cancelling:
    """Tells the vendor of cancelled sessions."""

    def __init__(self, *, store: SessionStore, vendor: Vendor, clock: Clock) -> None:
        self._store = store
        self._vendor = vendor
        self._clock = clock

    async def tell(self, owed: PendingCall) -> None:
        """Make one try at a cancel call that is ours; never raises a VendorError."""
        try:
            async with asyncio.timeout(CALL_DEADLINE_SECONDS):
                await self._vendor.cancel_session(owed.account, owed.session_id)
        except VendorCallHeldBack as error:
            await postpone(self._store, self._clock, owed.session_id, owed.lease, owed.attempts, error)
            return
        except (TimeoutError, VendorError) as error:
            is_told = isinstance(error, VendorRefused) and error.status in _NOTHING_TO_CANCEL
            log.warning(
                "cancel_call_failed",
                session_id=owed.session_id,
                attempts=owed.attempts,
                error=error.code if isinstance(error, VendorError) else "vendor_timeout",
                is_over=is_told or owed.attempts >= _MAX_TRIES,
            )
            if not is_told and owed.attempts < _MAX_TRIES:
                await self._postpone(owed)
                return
        except asyncio.CancelledError:
            await asyncio.shield(self._postpone(owed))
            raise
        await self._store.record_cancel_told(owed.session_id, owed.lease)

    async def _postpone(self, owed: PendingCall) -> None:
        await postpone(self._store, self._clock, owed.session_id, owed.lease, owed.attempts)
