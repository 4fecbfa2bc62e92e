"""Relays one connection of a live stream: frames in both directions, unchanged and in order.

The relay reads a frame from one side only after the other side has accepted the frame before it. So a slow
side slows the other, and the relay holds at most one frame in each direction. `CloseReason` says why a
connection ended; `_close_both` closes the two sides. Breaks of the vendor's connection do not show here:
healing.py is the vendor's side.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from service.domain.streams.frames import read_envelope
from service.domain.streams.models import HoldFull
from service.domain.streams.sides import (
    FLUSH_SECONDS,
    RESTART,
    Client,
    ClientGone,
    Restarting,
    VendorGone,
    VendorStream,
)

Cause = Literal[
    "client_closed",
    "stopped",
    "unconfirmed",
    "bad_frame",
    "vendor_closed",
    "vendor_lost",
    "hold_full",
    "session_over",
    "session_erased",
    "taken_over",
    "restarting",
]

# When the session ends during an open stream, the relay still forwards frames on their way: until no frame
# came for `_QUIET_SECONDS`, and for `_LAST_FRAMES_SECONDS` at most.
_QUIET_SECONDS = 0.25
_LAST_FRAMES_SECONDS = 2.0
# The pump of the other direction notices the end of a connection within this time.
_OTHER_SIDE_SECONDS = 1.0

# Close codes of RFC 6455 and its registry, and two of ours.
_NORMAL, _GOING_AWAY, _INVALID_PAYLOAD, _TRY_LATER, _VENDOR_LOST = 1000, 1001, 1007, 1013, 1014
TAKEN_OVER = 4409
# A session that was ended closes its stream as usual; one that expired, was cancelled or was erased, with our
# code.
SESSION_ENDED, SESSION_GONE = _NORMAL, 4410
_NEVER_SENT = frozenset({1004, 1005, 1006, 1015})
# Codes with which the server itself closes the client's side: broken frame, invalid UTF-8, frame too long.
_BAD_FRAME_CODES = frozenset({1002, 1007, 1009})
_MAX_REASON_BYTES = 123


class CloseReason(Struct, frozen=True):
    """The cause of a connection's end, and the close code and reason for its client."""

    cause: Cause
    code: int
    reason: str = ""


class Relay:
    """Relays frames between a client and the vendor.

    `frames` and `bytes` count what the vendor accepted. The relay awaits `on_end` when the end has begun,
    before it closes a side.
    """

    def __init__(
        self, client: Client, vendor: VendorStream, on_end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._client = client
        self._vendor = vendor
        self._on_end = on_end
        self._requested: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self._cut: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self._up: asyncio.Task[CloseReason | None] | None = None
        self._is_stopping = self._is_cut = False
        self._is_receiving = False
        # The loop's time since which a frame waits until the vendor accepts it; 0 if none waits.
        self.sending_since = 0.0
        self.was_active = False
        self.frames = 0
        self.bytes = 0

    def end(self, close_reason: CloseReason) -> None:
        """Ask the connection to end; only the first reason counts."""
        if not self._requested.done():
            self._requested.set_result(close_reason)

    def cut(self, close_reason: CloseReason) -> None:
        """End the connection at once, without waiting for either side; the relay sends no further byte."""
        if self._is_cut:
            return
        self._is_cut, self._is_receiving = True, False
        self._vendor.abort()
        self._cut.set_result(close_reason)

    async def run(self) -> CloseReason:
        """Relay until one side or a request ends the connection; both sides are closed on return."""
        relaying = asyncio.create_task(self._relay())
        try:
            await asyncio.wait({relaying, self._cut}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not relaying.done():
                relaying.cancel()
                await asyncio.gather(relaying, return_exceptions=True)
        return await self._close_client(self._cut.result()) if self._is_cut else relaying.result()

    async def _relay(self) -> CloseReason:
        self._client.give_frames(self._relay_frame)
        up = self._up = asyncio.create_task(self._pump_up())
        down = asyncio.create_task(self._pump_down())
        try:
            ends: set[asyncio.Future[Any]] = {up, down, self._requested}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            close_reason = await self._decide(up, down)
            if self._on_end is not None:
                await self._on_end()
            return await self._close_both(close_reason, down)
        except BaseException:
            # After an unexpected error the vendor must not keep a connection that nobody uses.
            await asyncio.shield(self._vendor.close(_GOING_AWAY, seconds=_OTHER_SIDE_SECONDS))
            raise
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def _relay_frame(self, frame: bytes) -> bool:
        """Send audio to the vendor without waking a pump, which would cost more than the rest of the work.

        Return False if the pump must send the frame. This sends frames only while the pump waits for one, as
        otherwise this frame could overtake the pump's.
        """
        if not self._is_receiving or not self._vendor.send_now(frame):
            return False
        self.was_active = True
        self.frames += 1
        self.bytes += len(frame)
        return True

    async def _pump_up(self) -> CloseReason | None:
        """Relay from the client to the vendor; None after a request to stop, or when the vendor has gone."""
        loop = asyncio.get_running_loop()
        receive, send = self._client.receive, self._vendor.send
        while not self._is_stopping:
            self._is_receiving = True
            try:
                frame = await receive()
            except Restarting:
                return CloseReason("restarting", RESTART)
            except ClientGone as gone:
                return CloseReason(
                    "bad_frame" if gone.code in _BAD_FRAME_CODES else "client_closed", gone.code
                )
            finally:
                self._is_receiving = False
            if self._is_cut:
                return None
            self.was_active = True
            is_stop = False
            if isinstance(frame, str):
                try:
                    is_stop = read_envelope(frame).event == "stop"
                except (msgspec.DecodeError, RecursionError):
                    return CloseReason(
                        "bad_frame", _INVALID_PAYLOAD, 'not an envelope: {"event": …} is needed'
                    )
            self.sending_since = loop.time()
            try:
                await send(frame)
            except VendorGone:
                return None
            except HoldFull:
                return CloseReason("hold_full", _TRY_LATER)
            finally:
                self.sending_since = 0.0
            self.frames += 1
            self.bytes += len(frame)
            if is_stop:
                return CloseReason("stopped", _NORMAL)
        return None

    async def _pump_down(self) -> CloseReason | None:
        """Relay from the vendor to the client; None when the client has gone: the other pump reports that."""
        receive, send = self._vendor.receive, self._client.send
        while True:
            try:
                frame = await receive()
            except VendorGone as gone:
                return self._vendor_gone(gone)
            if self._is_cut:
                return None
            try:
                await send(frame)
            except ClientGone:
                return None

    def _vendor_gone(self, gone: VendorGone) -> CloseReason:
        if gone.code in _NEVER_SENT and gone.code != 1005:  # noqa: PLR2004
            return self.lost()
        return CloseReason("vendor_closed", _NORMAL if gone.code in _NEVER_SENT else gone.code, gone.reason)

    def _closed_early(self, close_reason: CloseReason) -> CloseReason:
        """Return the reason for a client that sent no `stop`: the vendor's reason and the frame count."""
        after = f"closed by EkaScribe after frame {self.frames}"
        room = _MAX_REASON_BYTES - len(after) - len("; ")
        words = _truncate(close_reason.reason, room)
        return CloseReason("vendor_closed", close_reason.code, f"{words}; {after}" if words else after)

    def lost(self) -> CloseReason:
        """Return the reason for a client whose audio the vendor no longer accepts."""
        reason = f"EkaScribe dropped the stream after frame {self.frames}: reopen this URL, repeat the rest"
        return CloseReason("vendor_lost", _VENDOR_LOST, reason)

    async def _decide(
        self, up: "asyncio.Task[CloseReason | None]", down: "asyncio.Task[CloseReason | None]"
    ) -> CloseReason:
        if self._requested.done():
            return self._requested.result()
        first, second = (up, down) if up.done() else (down, up)
        found = first.result()
        if found is not None:
            return found
        # The first pump only noticed the end; the second pump knows its reason a moment later.
        await asyncio.wait({second}, timeout=_OTHER_SIDE_SECONDS)
        reported = second.result() if second.done() else None
        return reported or (self.lost() if first is up else CloseReason("client_closed", 1006))

    async def _close_both(
        self, close_reason: CloseReason, down: "asyncio.Task[CloseReason | None]"
    ) -> CloseReason:
        """Close both sides in the order that loses no audio; return the reason that the client got."""
        cause = close_reason.cause
        if cause == "client_closed":
            await self._vendor.close(_GOING_AWAY if close_reason.code in _NEVER_SENT else close_reason.code)
            return close_reason
        if cause == "stopped":
            return await self._await_flush(close_reason, down)
        if cause == "session_over":
            await self._drain()
            await self._stop_reading()
            await self._vendor.close(_NORMAL)
            return await self._close_client(close_reason)
        if cause == "vendor_closed":
            close_reason = self._closed_early(close_reason)
        # Close the client first, so that it stops sending frames that nobody reads any more.
        if cause == "vendor_lost" and self._up is not None:
            self._up.cancel()  # the vendor will never accept the frame that waits for it
        await self._stop_reading()
        reported = await self._close_client(self._counted(close_reason))
        await self._vendor.close(_NORMAL if cause == "bad_frame" else _GOING_AWAY)
        return reported

    def _counted(self, close_reason: CloseReason) -> CloseReason:
        if close_reason.cause == "restarting":
            reason = f"restarting: reopen this URL and go on after frame {self.frames} of this connection"
        elif close_reason.cause == "hold_full":
            reason = (
                f"EkaScribe is away and no more can be held: reopen this URL later, after frame {self.frames}"
            )
        else:
            return close_reason
        return CloseReason(close_reason.cause, close_reason.code, reason)

    async def _await_flush(
        self, close_reason: CloseReason, down: "asyncio.Task[CloseReason | None]"
    ) -> CloseReason:
        """After a `stop`, wait for the vendor to close: by closing it confirms that it stored the audio."""
        await asyncio.wait({down}, timeout=FLUSH_SECONDS)
        is_confirmed = down.done()
        closed = down.result() if is_confirmed else None
        if closed is not None and closed.cause == "vendor_lost":
            close_reason = closed
        elif closed is not None:
            close_reason = CloseReason("stopped", closed.code, closed.reason)
        elif not is_confirmed:
            reason = f"EkaScribe did not say within 10 s that it stored what came up to frame {self.frames}"
            close_reason = CloseReason("unconfirmed", _VENDOR_LOST, reason)
        reported = await self._close_client(close_reason)
        # A vendor that is still storing gets more time here; the session's end waits for this, too.
        await self._vendor.close(_NORMAL)
        return reported

    async def _drain(self) -> None:
        """Forward the frames that the client sent before the session ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FRAMES_SECONDS):
                before = -1
                while self.frames != before:
                    before = self.frames
                    await asyncio.sleep(_QUIET_SECONDS)

    async def _stop_reading(self) -> None:
        """Stop reading from the client between two frames, so that the counts are exact."""
        self._is_stopping = True
        if self._up is None:  # pragma: no cover - run() sets it
            return
        if self._is_receiving:
            self._up.cancel()
        await asyncio.wait({self._up}, timeout=FLUSH_SECONDS)

    async def _close_client(self, close_reason: CloseReason) -> CloseReason:
        reason = _truncate(close_reason.reason, _MAX_REASON_BYTES)
        await self._client.close(close_reason.code, reason)
        return CloseReason(close_reason.cause, close_reason.code, reason)


def _truncate(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")
