"""Sends the held audio of an ended stream on the vendor's stream, when the vendor is back.

That is for streams of which ekabridge holds a part only: the vendor's first session has the rest, and only
there can the two become one document. A whole recording goes to a second session instead (holding.py).
"""

import asyncio
from typing import Protocol

import structlog
from msgspec import Struct

from service.domain.errors import SessionEnded, VendorCallHeldBack, VendorUnavailable
from service.domain.ids import Account, Lease, SessionId, VendorSessionId
from service.domain.sessions.models import PendingCall
from service.domain.streams.frames import (
    SAMPLE_RATE,
    WAV_HEAD_BYTES,
    Frame,
    media_frame,
    rate_of_wav,
    start_frame,
)
from service.domain.streams.sides import VendorConnection, VendorGone

log = structlog.get_logger()

# One second of audio at the usual rate.
_FRAME_BYTES = 32_000
_NORMAL = 1000
# Together with the waits before and after it, shorter than the deadline of an end call: what the vendor took
# must be recorded, or the next try sends it again.
_MAX_SECONDS = 15.0


class HeldPart(Struct, frozen=True, kw_only=True):
    """The held audio of an ended stream, of which the vendor's stream took `taken_bytes` of samples."""

    vendor_id: VendorSessionId
    vendor_url: str | None
    sequences: list[int]
    taken_bytes: int
    is_whole: bool


class HeldPartStore(Protocol):
    """Held audio of ended streams, by the lease of their pending call."""

    async def read_part(self, session_id: SessionId, lease: Lease) -> HeldPart | None:
        """Return what is held; None if nothing is, or the lease was lost."""
        ...

    async def read_piece(self, session_id: SessionId, sequence: int) -> bytes:
        """Return a held piece, a WAV file."""
        ...

    async def record_taken(self, session_id: SessionId, lease: Lease, taken_bytes: int) -> None:
        """Record how much of the held audio the vendor's stream took."""
        ...

    async def drop_part(self, session_id: SessionId, lease: Lease) -> None:
        """Delete the held audio, because the vendor's stream took all of it."""
        ...


class StreamOpener(Protocol):
    """Opens the vendor's side of a stream."""

    async def open(self, account: Account, session_id: VendorSessionId, url: str) -> VendorConnection:
        """Connect. Raises VendorError."""
        ...


class LateReplay:
    """Replays held parts of streams under the lease of their end call."""

    def __init__(self, *, store: HeldPartStore, vendor: StreamOpener, seconds: float = _MAX_SECONDS) -> None:
        """A replay that takes longer than `seconds` goes on with the next try."""
        self._seconds = seconds
        self._store = store
        self._vendor = vendor

    async def replay(self, pending: PendingCall) -> None:
        """Send a held part on the vendor's stream, if there is one. Raises VendorError or SessionEnded."""
        part = await self._store.read_part(pending.session_id, pending.lease)
        if part is None or part.is_whole or part.vendor_url is None:
            return
        connection = await self._vendor.open(pending.account, part.vendor_id, part.vendor_url)
        sent: list[tuple[int, int]] = []  # the size of each frame, and of its samples
        is_all = is_slow = False
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(pending, part, connection, sent)
            is_all = True
        except TimeoutError:
            is_slow = True
        except VendorGone:
            log.info("stream_replay_broke", session_id=pending.session_id)
        finally:
            await connection.close(_NORMAL)
        missing = connection.unconfirmed_frames([size for size, _ in sent])
        samples = [count for _, count in sent]
        taken = part.taken_bytes + sum(samples[: max(0, len(samples) - missing)])
        await self._store.record_taken(pending.session_id, pending.lease, taken)
        if is_slow and taken > part.taken_bytes:
            raise VendorCallHeldBack("the rest of the held audio follows", retry_after_seconds=0.0)
        if missing or not is_all:
            raise VendorUnavailable("EkaScribe's stream broke while held audio was sent", sent=True)
        await self._store.drop_part(pending.session_id, pending.lease)

    async def _send(
        self,
        pending: PendingCall,
        part: HeldPart,
        connection: VendorConnection,
        sent: list[tuple[int, int]],
    ) -> None:
        skipped = part.taken_bytes
        for sequence in part.sequences:
            wav = await self._store.read_piece(pending.session_id, sequence)
            if await self._store.read_part(pending.session_id, pending.lease) is None:
                raise SessionEnded("the session was cancelled or erased meanwhile")
            samples, rate = wav[WAV_HEAD_BYTES:], rate_of_wav(wav)
            start, skipped = min(skipped, len(samples)), max(0, skipped - len(samples))
            is_usual = rate == SAMPLE_RATE
            if not sent and not is_usual:
                await self._send_one(connection, start_frame(rate), 0, sent)
            for position in range(start, len(samples), _FRAME_BYTES):
                piece = samples[position : position + _FRAME_BYTES]
                await self._send_one(connection, piece if is_usual else media_frame(piece), len(piece), sent)

    @staticmethod
    async def _send_one(
        connection: VendorConnection, frame: Frame, samples: int, sent: list[tuple[int, int]]
    ) -> None:
        await connection.send(frame)
        sent.append((len(frame), samples))
