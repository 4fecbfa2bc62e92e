"""Hands held audio over to the vendor, in order, as soon as the vendor takes it.

The right to hand a session's audio over is the lease of its pending call `audio`. It follows the create call
and precedes the end call, so that the vendor gets every chunk between the two.
"""

from typing import Protocol

import structlog

from service.domain.audio.models import Audio, HeldChunk
from service.domain.errors import ENDED_AT_VENDOR, SessionEnded, VendorRefused
from service.domain.ids import Lease, SessionId
from service.domain.sessions.models import PendingCall
from service.domain.vendor import Vendor

log = structlog.get_logger()

_MISSING_AT_VENDOR = frozenset({404, 410})


class HeldAudioStore(Protocol):
    """Chunks that are held, and their bytes."""

    async def next_held(self, session_id: SessionId, lease: Lease) -> HeldChunk | None:
        """Return the first held chunk; None if there is none or the lease was lost."""
        ...

    def open_held(self, chunk: HeldChunk) -> Audio:
        """Return the chunk's bytes, which are read and decrypted block by block."""
        ...

    async def record_handed_over(self, chunk: HeldChunk, lease: Lease, *, is_stored: bool) -> bool:
        """Record that the vendor has stored or refused the chunk; False if the lease was lost."""
        ...

    async def finish_handover(self, session_id: SessionId, lease: Lease) -> bool:
        """End the handover, and make an end call due that waited for it; False if more audio is held."""
        ...


class AudioHandover:
    """Uploads the held chunks of a session to the vendor."""

    def __init__(self, *, store: HeldAudioStore, vendor: Vendor) -> None:
        self._store = store
        self._vendor = vendor

    async def next_chunk(self, pending: PendingCall) -> HeldChunk | None:
        """Return the chunk to upload next, or None after the last one or if the lease was lost."""
        return await self._store.next_held(pending.session_id, pending.lease)

    async def upload(self, pending: PendingCall, chunk: HeldChunk) -> None:
        """Upload one chunk and record it.

        A chunk that the vendor refuses is recorded as missing, and the others go on; its bytes stay here.
        Raises VendorUnreachable, or VendorRefused if the vendor takes no more audio for the session.
        """
        try:
            await self._vendor.upload_audio(
                pending.account,
                pending.vendor_id,
                chunk.file_name,
                chunk.audio_format,
                self._store.open_held(chunk),
                before_repeat=lambda: self._check_lease(pending, chunk),
            )
        except VendorRefused as refused:
            if refused.vendor_code in ENDED_AT_VENDOR or refused.status in _MISSING_AT_VENDOR:
                raise
            log.error(
                "held_audio_refused",
                session_id=pending.session_id,
                sequence=chunk.sequence,
                vendor_status=refused.status,
                vendor_code=refused.vendor_code,
            )
            await self._store.record_handed_over(chunk, pending.lease, is_stored=False)
            return
        await self._store.record_handed_over(chunk, pending.lease, is_stored=True)

    async def finish(self, pending: PendingCall) -> bool:
        """End the handover unless audio has come meanwhile; return whether it ended."""
        return await self._store.finish_handover(pending.session_id, pending.lease)

    async def _check_lease(self, pending: PendingCall, chunk: HeldChunk) -> None:
        """Raise SessionEnded if the chunk must not be sent again: erased, cancelled or taken over."""
        found = await self._store.next_held(pending.session_id, pending.lease)
        if found is None or found.sequence != chunk.sequence:
            raise SessionEnded("the session was cancelled or erased meanwhile")
