"""One connection of a live stream: frames both ways, unchanged and in order, until something ends it.

Each side is read only when the other has taken the frame before: a slow side slows the other, and at most one
frame a direction is held here. How each ending is told to the other side stands in `Farewell` and `run`.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

Frame = bytes | str
Cause = Literal[
    "client_closed",
    "stopped",
    "unconfirmed",
    "bad_frame",
    "vendor_closed",
    "vendor_lost",
    "session_over",
    "session_erased",
    "taken_over",
    "restarting",
]

# How long the vendor may take to flush what it has buffered (contract, Streaming).
FLUSH_SECONDS = 10.0
# When the session ends under an open stream, frames that are on their way are still passed on: until nothing
# came for so long, and for so long at most.
_QUIET_SECONDS = 0.25
_LAST_FRAMES_SECONDS = 2.0
# The other pump sees the end of a connection a moment after the first.
_OTHER_SIDE_SECONDS = 1.0

# Close codes of RFC 6455 and its registry, and two of ours.
_NORMAL, _GOING_AWAY, _INVALID_PAYLOAD, RESTART, _VENDOR_LOST = 1000, 1001, 1007, 1012, 1014
TAKEN_OVER, SESSION_OVER = 4409, 4410
_NEVER_SENT = frozenset({1004, 1005, 1006, 1015})
# With these the server itself has closed the client's side: a broken frame, bad UTF-8, too long a frame.
_BAD_FRAME_CODES = frozenset({1002, 1007, 1009})
_MAX_REASON_BYTES = 123


class SideGone(Exception):
    """One side closed or vanished: its close code (1005: it gave none, 1006: it vanished) and reason."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


class ClientGone(SideGone):
    """The client's side."""


class Restarting(ClientGone):
    """Our own process is to stop: the client is still there, and shall go on elsewhere."""

    def __init__(self) -> None:
        super().__init__(RESTART)


class VendorGone(SideGone):
    """The vendor's side."""


class Client(Protocol):
    """The connection of whoever streams to us."""

    async def receive(self) -> Frame:
        """The next frame. Raises ClientGone."""
        ...

    def give_frames(self, relay: Callable[[bytes], bool]) -> None:
        """Have audio given to `relay` when it comes, if that can be; `receive` returns what it refuses."""
        ...

    async def send(self, frame: Frame) -> None:
        """Pass a frame on. Raises ClientGone."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, if it is still there."""
        ...


class VendorStream(Protocol):
    """Our connection to the vendor's stream."""

    async def receive(self) -> Frame:
        """The next frame. Raises VendorGone."""
        ...

    def send_now(self, frame: bytes) -> bool:
        """Pass a frame on if that needs no waiting; false if it was not taken."""
        ...

    async def send(self, frame: Frame) -> None:
        """Pass a frame on, waiting while the vendor is slow. Raises VendorGone."""
        ...

    async def close(self, code: int, seconds: float = FLUSH_SECONDS) -> None:
        """Close the connection and wait until the vendor has closed, too, for so long at most."""
        ...

    def abort(self) -> None:
        """Cut the connection off: what still waits to be sent is dropped."""
        ...


class CloseReason(Struct, frozen=True):
    """Why a connection ends, and what its client is told."""

    cause: Cause
    code: int
    reason: str = ""


class _Envelope(Struct):
    """The one field of every JSON frame (docs/vendor.md#stream); the vendor judges unknown events."""

    event: str


_read_envelope = msgspec.json.Decoder(_Envelope).decode


class Relay:
    """Passes frames between a client and the vendor; `frames` and `bytes` count what the vendor took.

    `on_end` is awaited when the end has begun and nobody was told yet.
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
        self.sending_since = (
            0.0  # the loop's time at which the vendor was handed a frame that it has not taken
        )
        self.was_active = False
        self.frames = 0
        self.bytes = 0

    def end(self, close_reason: CloseReason) -> None:
        """Ask the connection to end; the first to ask decides why."""
        if not self._requested.done():
            self._requested.set_result(close_reason)

    def cut(self, close_reason: CloseReason) -> None:
        """End the connection at this moment, whatever it still waits for: not a byte more is passed on."""
        if self._is_cut:
            return
        self._is_cut, self._is_receiving = True, False
        self._vendor.abort()
        self._cut.set_result(close_reason)

    async def run(self) -> CloseReason:
        """Relay until something ends it; both sides are closed when this returns."""
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
            # Whatever nobody foresaw: the vendor must not be left with a connection that nobody uses.
            await asyncio.shield(self._vendor.close(_GOING_AWAY, seconds=_OTHER_SIDE_SECONDS))
            raise
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def _relay_frame(self, frame: bytes) -> bool:
        """Pass audio on without waking a pump, which takes longer than all the rest; false: the pump has to.

        Only while the pump waits for a frame: what came before has been handed over then.
        """
        if not self._is_receiving or not self._vendor.send_now(frame):
            return False
        self.was_active = True
        self.frames += 1
        self.bytes += len(frame)
        return True

    async def _pump_up(self) -> CloseReason | None:
        """From the client to the vendor; None when it was told to stop, or the vendor has gone."""
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
                    is_stop = _read_envelope(frame).event == "stop"
                except (msgspec.DecodeError, RecursionError):
                    return CloseReason(
                        "bad_frame", _INVALID_PAYLOAD, 'not an envelope: {"event": …} is needed'
                    )
            self.sending_since = loop.time()
            try:
                await send(frame)
            except VendorGone:
                return None
            finally:
                self.sending_since = 0.0
            self.frames += 1
            self.bytes += len(frame)
            if is_stop:
                return CloseReason("stopped", _NORMAL)
        return None

    async def _pump_down(self) -> CloseReason | None:
        """From the vendor to the client; None when the client has gone, which the other pump tells."""
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
        """Return what a client is told that had not said `stop`: the vendor's words, and how far it got."""
        after = f"closed by EkaScribe after frame {self.frames}"
        room = _MAX_REASON_BYTES - len(after) - len("; ")
        words = _truncate(close_reason.reason, room)
        return CloseReason("vendor_closed", close_reason.code, f"{words}; {after}" if words else after)

    def lost(self) -> CloseReason:
        """Return what a client is told whose audio the vendor no longer takes."""
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
        # What this pump stumbled over is the other one's to tell, a moment later.
        await asyncio.wait({second}, timeout=_OTHER_SIDE_SECONDS)
        reported = second.result() if second.done() else None
        return reported or (self.lost() if first is up else CloseReason("client_closed", 1006))

    async def _close_both(
        self, close_reason: CloseReason, down: "asyncio.Task[CloseReason | None]"
    ) -> CloseReason:
        """Close both sides in the order that loses nothing, and return what the client was told."""
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
        # The client first, so that it stops sending what nobody reads any more.
        if cause == "vendor_lost" and self._up is not None:
            self._up.cancel()  # a frame that waits for the vendor will never be taken
        await self._stop_reading()
        reported = await self._close_client(self._counted(close_reason))
        await self._vendor.close(_NORMAL if cause == "bad_frame" else _GOING_AWAY)
        return reported

    def _counted(self, close_reason: CloseReason) -> CloseReason:
        if close_reason.cause != "restarting":
            return close_reason
        reason = f"restarting: reopen this URL and go on after frame {self.frames} of this connection"
        return CloseReason("restarting", RESTART, reason)

    async def _await_flush(
        self, close_reason: CloseReason, down: "asyncio.Task[CloseReason | None]"
    ) -> CloseReason:
        """After a `stop`, wait for the vendor to close: that is how it says that the audio is stored."""
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
        # One that is still storing may go on for a while: the end waits for it, too.
        await self._vendor.close(_NORMAL)
        return reported

    async def _drain(self) -> None:
        """Let frames through that were sent before the session was ended."""
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
