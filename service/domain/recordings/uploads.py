"""Receives recordings in pieces, as tus 1.0 sends them: after a break the client asks where to continue.

The number of bytes is a row, so any process can take the next piece. The piece that makes the recording whole
ends its session in the same transaction.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import uuid4

import structlog
from msgspec import Struct

from service.domain.api_keys.models import Principal
from service.domain.errors import (
    AudioEmpty,
    NotFound,
    Overloaded,
    RecordingTooLarge,
    SessionEnded,
    SessionErased,
    UploadBusy,
    UploadGone,
    UploadOffsetWrong,
)
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.recordings.ports import HeldAudioRoom
from service.domain.sessions.lifecycle import HOLD_SECONDS, SESSION_LIFE_SECONDS
from service.domain.wakeups import PendingCallWakeups

log = structlog.get_logger()

# Shorter than the patience of a client whose connection broke, so that it can continue from another one.
_LEASE_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 60.0


class UploadState(Struct, frozen=True, kw_only=True):
    """How far an upload is; `length` is None until the client has said it."""

    status: str
    is_open: bool
    is_erased: bool
    received: int | None
    length: int | None


class UploadStore(Protocol):
    """Rows of recordings that come in pieces."""

    async def state(self, tenant_id: TenantId, session_id: SessionId) -> UploadState | None:
        """Return how far an upload is; None if the tenant has no session that takes one."""
        ...

    async def restart(self, tenant_id: TenantId, session_id: SessionId, length: int | None) -> bool:
        """Begin an upload anew; False if it is over."""
        ...

    async def claim(
        self,
        tenant_id: TenantId,
        session_id: SessionId,
        *,
        offset: int,
        length: int | None,
        lease: Lease,
        lease_seconds: float,
    ) -> bool:
        """Lease the upload for a piece; False if it is at another offset, over, or leased to another."""
        ...

    async def append(
        self,
        tenant_id: TenantId,
        session_id: SessionId,
        lease: Lease,
        pieces: AsyncIterator[bytes],
        *,
        lease_seconds: float,
        life_seconds: float,
        reconcile_seconds: float,
    ) -> int | None:
        """Store pieces, and end the session if the recording is whole; None if the lease was lost."""
        ...

    async def release(self, session_id: SessionId, lease: Lease) -> None:
        """Release the lease of a piece that is over."""
        ...

    async def cancel(self, tenant_id: TenantId, session_id: SessionId) -> bool:
        """Cancel the session of an upload and delete its bytes; False if it is over."""
        ...


class UploadPiece:
    """A piece that is being received, under a lease of its own."""

    def __init__(
        self,
        store: UploadStore,
        room: HeldAudioRoom,
        tenant_id: TenantId,
        session_id: SessionId,
        lease: Lease,
        received: int,
        reconcile_seconds: float,
    ) -> None:
        self._store, self._room = store, room
        self._tenant_id = tenant_id
        self._session_id = session_id
        self._lease = lease
        self.received = received
        self._reconcile_seconds = reconcile_seconds

    async def append(self, blocks: AsyncIterator[bytes], size: int) -> None:
        """Store blocks of at most 1 MiB, of `size` bytes in all, all of them or none.

        Raises UploadBusy if the lease was lost, or Overloaded: a recording whose length nobody has said, or
        several at once, may have more bytes than there was room for at the beginning.
        """
        if size and not await self._room.has_room(self._tenant_id, size):
            raise Overloaded("more audio is kept here than may be", retry_after_seconds=_RETRY_AFTER_SECONDS)
        received = await self._store.append(
            self._tenant_id,
            self._session_id,
            self._lease,
            blocks,
            lease_seconds=_LEASE_SECONDS,
            life_seconds=SESSION_LIFE_SECONDS,
            reconcile_seconds=self._reconcile_seconds,
        )
        if received is None:
            raise UploadBusy("another request continued this upload, or it is over")
        self.received = received

    async def release(self) -> None:
        """Release the lease: the next piece may come."""
        await asyncio.shield(self._store.release(self._session_id, self._lease))


class RecordingUploads:
    """Receives the pieces of recordings."""

    def __init__(
        self,
        *,
        store: UploadStore,
        room: HeldAudioRoom,
        wakeups: PendingCallWakeups,
        reconcile_after_seconds: float,
        max_bytes: int,
    ) -> None:
        self._store = store
        self._room = room
        self._wakeups = wakeups
        self._reconcile_seconds = HOLD_SECONDS + reconcile_after_seconds
        self.max_bytes = max_bytes

    async def state(self, principal: Principal, session_id: SessionId) -> UploadState:
        """Return how far an upload is. Raises NotFound, SessionErased or UploadGone."""
        state = await self._store.state(principal.tenant_id, session_id)
        if state is None:
            raise NotFound("no such upload")
        if state.is_erased:
            raise SessionErased("the session was erased")
        is_whole = state.received is not None and state.received == state.length
        if not state.is_open and not is_whole:
            raise UploadGone(f"the session is {state.status}, and takes no recording")
        return state

    async def start(self, principal: Principal, session_id: SessionId, length: int | None) -> None:
        """Begin an upload anew; `length` is the size of the recording, None if that is not known yet.

        Raises as `state` does, RecordingTooLarge, AudioEmpty, Overloaded, or SessionEnded if the recording is
        whole.
        """
        await self.state(principal, session_id)
        await self._check_length(principal, length)
        if not await self._store.restart(principal.tenant_id, session_id, length):
            raise SessionEnded("the recording is whole, and its session has ended")

    async def open_piece(
        self, principal: Principal, session_id: SessionId, offset: int, length: int | None
    ) -> UploadPiece:
        """Lease an upload for a piece at this offset; the caller releases it.

        Raises as `start` does, UploadOffsetWrong, or UploadBusy while another piece comes in.
        """
        state = await self.state(principal, session_id)
        if length is not None and state.length is not None and length != state.length:
            raise UploadOffsetWrong("the recording's length was given before, and was another one")
        if state.received != offset:
            raise UploadOffsetWrong(f"the upload continues at {state.received}", offset=state.received)
        if not state.is_open:
            raise SessionEnded("the recording is whole, and its session has ended")
        if state.length is None:
            await self._check_length(principal, length)
        if length is not None and length < offset:
            raise UploadOffsetWrong(f"{offset} bytes are here, more than the recording's length")
        lease = Lease(uuid4())
        if not await self._store.claim(
            principal.tenant_id,
            session_id,
            offset=offset,
            length=length,
            lease=lease,
            lease_seconds=_LEASE_SECONDS,
        ):
            raise UploadBusy("another piece of this recording comes in at this moment")
        return UploadPiece(
            self._store, self._room, principal.tenant_id, session_id, lease, offset, self._reconcile_seconds
        )

    def announce(self, session_id: SessionId, size: int) -> None:
        """Wake a worker for a recording that is whole."""
        log.info("recording_received", session_id=session_id, bytes=size, seconds=None)
        self._wakeups.calls_due()

    async def cancel(self, principal: Principal, session_id: SessionId) -> None:
        """Give an upload up: its session is cancelled, and its bytes are deleted. Raises as `start` does."""
        await self.state(principal, session_id)
        if not await self._store.cancel(principal.tenant_id, session_id):
            raise SessionEnded("the recording is whole, and its session has ended")

    async def _check_length(self, principal: Principal, length: int | None) -> None:
        if length is None:
            return
        if length == 0:
            raise AudioEmpty("the recording has no bytes")
        if length > self.max_bytes:
            raise RecordingTooLarge(f"a recording may have {self.max_bytes} bytes")
        if not await self._room.has_room(principal.tenant_id, length):
            raise Overloaded("more audio is kept here than may be", retry_after_seconds=_RETRY_AFTER_SECONDS)
