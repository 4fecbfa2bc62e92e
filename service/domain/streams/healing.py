"""Keeps the vendor's side of a stream whole, over as many connections to the vendor as it takes.

To the relay a HealingStream is the vendor's side, which never breaks. If the vendor's connection breaks, it
holds the client's frames, connects again, and sends the frames that the vendor has not received, in order and
as fast as the vendor takes them; frames that come meanwhile wait behind them. A vendor that stays away
before the stream ends gets the audio from PostgreSQL later (holding.py).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from msgspec import Struct

from service.domain.errors import StoreUnavailable, VendorError, VendorRefused
from service.domain.ids import SessionId
from service.domain.streams.backlog import Backlog, MakeLog
from service.domain.streams.frames import Frame, is_event, sample_rate_of
from service.domain.streams.holding import EarlierAudio, Interruption, StreamHold
from service.domain.streams.models import HoldFull
from service.domain.streams.sides import FLUSH_SECONDS, VendorConnection, VendorGone
from service.observability.logging import describe_failure

log = structlog.get_logger()

# A vendor that closes with one of these codes is restarting or broken, or vanished. Any other code is its
# verdict on the stream, which the client gets.
_BROKEN_CODES = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015})
# A vendor that closes so after a `stop` has stored the audio.
_CONFIRMING_CODES = frozenset({1000, 1005})


class HealingRule(Struct, frozen=True, kw_only=True):
    """Waits in seconds."""

    # The first try to connect again may take so long before audio goes to PostgreSQL.
    grace: float = 0.5
    # Between tries to connect.
    waits: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 5.0)
    max_wait: float = 15.0
    # After a `stop` clients wait for our close for 10 seconds (docs/vendor.md#client-python).
    stop: float = 5.0
    # The end of a stream waits so long for a replay that is under way.
    end: float = 8.0
    store_wait: float = 0.5
    store_tries: int = 10


class HealingStream:
    """The vendor's side of a stream; implements the VendorStream of the relay."""

    def __init__(
        self,
        *,
        session_id: SessionId,
        connect: Callable[[], Awaitable[VendorConnection]],
        first: VendorConnection | None,
        hold: StreamHold,
        make_log: MakeLog,
        earlier: EarlierAudio,
        rule: HealingRule,
        keeps_all: bool = False,
    ) -> None:
        """`first` is the vendor's open connection; None if the vendor is away from the start.

        `keeps_all`: keep all audio of this connection, so that a second session could get all of it.
        """
        self._session_id = session_id
        self._connect, self._hold, self._rule = connect, hold, rule
        self._earlier = earlier
        self._vendor: VendorConnection | None = None
        self._unused = first
        self._backlog = Backlog(make_log, keeps_all=keeps_all)
        self._has_begun = False
        self._stop_frame: Frame | None = None
        # While this is true every frame was sent, so that the next one may be sent at once.
        self._is_live = self._is_fast = False
        self._changed, self._stop_asked = asyncio.Event(), asyncio.Event()
        self._final: VendorGone | None = None
        self._healing: asyncio.Task[None] | None = None
        self._is_aborted = self._is_over = self._is_closing = self._is_hold_full = False
        self._interruptions, self._broken_at, self._cause, self._held_frames = 0, 0.0, "", 0

    # The relay's side.

    def send_now(self, frame: bytes) -> bool:
        """Send and keep a frame if that needs no waiting."""
        if not self._is_fast or not self._vendor.send_now(frame):  # type: ignore[union-attr]
            return False
        backlog = self._backlog
        backlog.recent.append(frame)
        if backlog.log is not None:
            backlog.log.append(frame)
        return True

    async def send(self, frame: Frame) -> None:
        """Send and keep a frame, or only keep it while the vendor is away. Raises HoldFull."""
        if not self._has_begun:
            await self._begin(frame)
        if isinstance(frame, str) and '"stop"' in frame and is_event(frame, "stop"):
            self._stop_frame = frame
        if self._hold.is_holding and self._backlog.log is not None:
            with contextlib.suppress(StoreUnavailable):  # the log keeps it meanwhile
                await self._hold.hold(self._backlog.log, self._backlog.taken_until)
        while self._is_live and (vendor := self._vendor) is not None:
            try:
                await vendor.send(frame)
            except VendorGone as gone:
                self._break(vendor, gone)
                continue
            self._backlog.count_sent(frame)
            return
        audio = self._backlog.open_log()
        if audio.is_full or self._is_hold_full:
            raise HoldFull("there is no room for more audio")
        audio.append_frame(frame)
        self._held_frames += 1
        if self._stop_frame is not None:
            self._stop_asked.set()

    async def receive(self) -> Frame:
        """Return the vendor's next frame, from whichever connection. Raises VendorGone."""
        while self._final is None:
            vendor = self._vendor or self._unused
            if vendor is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                return await vendor.receive()
            except VendorGone as gone:
                if vendor not in {self._vendor, self._unused}:
                    continue
                if self._is_verdict(vendor, gone):
                    self._is_over = True
                    raise
                self._break(vendor, gone)
        raise self._final

    def _is_verdict(self, vendor: VendorConnection, gone: VendorGone) -> bool:
        """Tell a vendor that closes a stream of its own accord from one that broke."""
        if self._stop_frame is not None and gone.code in _CONFIRMING_CODES:
            return self._is_live or self._backlog.is_all_sent
        return gone.code not in _BROKEN_CODES and (self._is_live or vendor is self._unused)

    def break_off(self) -> None:
        """Give up a connection whose vendor accepts nothing; another one follows."""
        if self._vendor is not None:
            self._vendor.abort()

    def abort(self) -> None:
        """Send and keep nothing from now on."""
        self._is_aborted, self._is_live, self._is_fast = True, False, False
        if self._healing is not None:
            self._healing.cancel()
        for vendor in (self._vendor, self._unused):
            if vendor is not None:
                vendor.abort()
        self._backlog.close()

    async def close(self, code: int, seconds: float = FLUSH_SECONDS) -> None:
        """Close the vendor's side; hold what the vendor does not have by then."""
        if self._is_aborted:
            return
        self._is_closing = True
        vendor = self._vendor or self._unused
        if vendor is not None and (self._is_live or not self._has_begun):
            await self._close_connection(vendor, code, seconds)
        if await self._has_healed() and self._vendor is not None:
            await self._close_connection(self._vendor, code, seconds)
        await self._stop_healing()
        try:
            await self._settle()
        except (StoreUnavailable, HoldFull) as error:
            log.error("stream_audio_not_held", session_id=self._session_id, error=type(error).__name__)
        finally:
            self._backlog.close()

    async def _close_connection(self, vendor: VendorConnection, code: int, seconds: float) -> None:
        await vendor.close(code, seconds)
        if self._vendor is vendor and not self._is_over:
            self._break(vendor, VendorGone(code))

    async def _has_healed(self) -> bool:
        """Wait for a moment until the stream is live again, and stop connecting."""
        healing = self._healing
        if healing is None or self._is_over:
            return False
        if not healing.done():
            patience = self._rule.stop if self._vendor is None else self._rule.end
            await asyncio.wait({healing}, timeout=patience)
        return self._is_live

    async def _stop_healing(self) -> None:
        self._is_live = self._is_fast = False
        if self._healing is not None:
            self._healing.cancel()
            await asyncio.gather(self._healing, return_exceptions=True)
        if self._vendor is not None:  # a replay was not finished
            self._backlog.note_end(self._vendor, was_live=False)
            self._vendor.abort()
            self._vendor = None

    # Beginning.

    async def _begin(self, frame: Frame) -> None:
        """Choose the form of the stream by the first frame, which decides for the vendor, too."""
        self._has_begun, self._hold.rate = True, sample_rate_of(frame)
        backlog, earlier = self._backlog, self._earlier
        backlog.begin(frame, needs_log=bool(earlier.sequences))
        if earlier.sequences:
            backlog.taken_until = await self._hold.load_earlier(backlog.open_log(), earlier)
        vendor, self._unused = self._unused, None
        if vendor is not None and not earlier.sequences:
            self._go_live(vendor)
        else:
            self._cause = "vendor_unreachable" if vendor is None else "earlier_audio_is_held"
            self._start_healing(vendor)

    def _go_live(self, vendor: VendorConnection) -> None:
        self._vendor, self._is_live = vendor, True
        self._is_fast = not isinstance(self._backlog.opening, str)
        self._backlog.release()
        vendor.report_confirmed(partial(self._confirm, vendor))
        self._changed.set()

    def _confirm(self, vendor: VendorConnection, frames: int) -> None:
        if vendor is self._vendor:
            self._backlog.confirm(frames)

    # Healing.

    def _break(self, vendor: VendorConnection, gone: VendorGone) -> None:
        """Note that a connection broke, and begin to heal the stream."""
        if vendor is self._unused:
            self._unused = None
            return
        if vendor is not self._vendor:
            return
        was_live = self._is_live
        self._backlog.note_end(vendor, was_live=was_live)
        self._vendor, self._is_live, self._is_fast = None, False, False
        if self._is_closing and self._backlog.is_all_taken:
            return
        self._backlog.open_log().must_keep = True
        if self._stop_frame is not None:
            self._stop_asked.set()
        self._cause = f"vendor_closed_{gone.code}"
        if self._healing is not None and was_live:
            self._healing.cancel()  # it only records that the vendor was back, and would not connect again
        if self._healing is None or self._healing.done() or was_live:
            self._start_healing(None)

    def _start_healing(self, vendor: VendorConnection | None) -> None:
        self._broken_at, self._held_frames = asyncio.get_running_loop().time(), 0
        self._interruptions += 1
        self._healing = asyncio.create_task(self._heal(vendor))

    async def _heal(self, vendor: VendorConnection | None) -> None:
        """Connect and replay until the stream is live; after a `stop` for a few seconds only."""
        reconnecting = asyncio.create_task(self._reconnect(vendor))
        stopping = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait({reconnecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._is_live:
                return
            if reconnecting.done() and (error := reconnecting.exception()) is not None:
                log.error("stream_healing_broke", session_id=self._session_id, **describe_failure(error))
            await stopping
            await asyncio.wait({reconnecting}, timeout=self._rule.stop)
            if not self._is_live:
                await _cancelled(reconnecting)
                await self._end_held()
        finally:
            await _cancelled(reconnecting, stopping)

    async def _end_held(self) -> None:
        """Confirm a `stop` to the client without the vendor: all audio is held."""
        try:
            await self._settle()
            self._final = VendorGone(1000)
        except (StoreUnavailable, HoldFull):
            self._final = VendorGone(1006)
        self._changed.set()

    async def _reconnect(self, vendor: VendorConnection | None) -> None:
        """Return when the stream is live, or when the vendor refuses it for good."""
        attempt = 0
        while not self._is_live:
            asked = 0.0
            try:
                await self._replay(vendor or await self._try_connect(is_first=attempt == 0))
            except VendorRefused as refused:
                log.warning("stream_refused_again", session_id=self._session_id, status=refused.status)
                await self._hold_now()
                return
            except (VendorError, StoreUnavailable) as error:
                asked = getattr(error, "retry_after_seconds", None) or 0.0
                await self._hold_now()
            except VendorGone:
                await self._hold_now()
            else:
                return
            vendor = None
            wait = self._rule.waits[min(attempt, len(self._rule.waits) - 1)]
            attempt += 1
            await asyncio.sleep(min(max(wait, asked), self._rule.max_wait))

    async def _try_connect(self, *, is_first: bool) -> VendorConnection:
        """Connect; audio goes to PostgreSQL meanwhile if that takes long."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            await asyncio.wait({connecting}, timeout=self._rule.grace if is_first else 0)
            if not connecting.done():
                await self._hold_now()
            return await connecting
        finally:
            connecting.cancel()

    async def _replay(self, vendor: VendorConnection) -> None:
        """Send what the vendor has not received, on a new connection. Raises VendorGone."""
        self._backlog.recent.clear()
        self._vendor = vendor
        vendor.report_confirmed(partial(self._confirm, vendor))
        self._changed.set()
        repeats_opening = bool(self._earlier.sequences)
        try:
            replayed = await self._backlog.replay(vendor, self._stop_frame, repeats_opening=repeats_opening)
        except VendorGone as gone:
            self._break(vendor, gone)
            raise
        if self._vendor is not vendor:
            raise VendorGone(1006)
        self._go_live(vendor)
        await self._record_resumed(replayed)

    async def _record_resumed(self, replayed: int) -> None:
        try:
            await self._hold.drop()
            await self._record_interruption(is_over=True, replayed_bytes=replayed)
        except StoreUnavailable:
            log.warning("stream_resumed_unrecorded", session_id=self._session_id)

    # Holding.

    async def _hold_now(self) -> None:
        """Begin to hold the audio in PostgreSQL, from what the vendor has not received on."""
        if self._hold.is_holding or self._backlog.log is None:
            return
        try:
            await self._record_interruption(is_over=False, replayed_bytes=0)
            await self._hold.begin(self._backlog.log, self._backlog.taken_until)
        except StoreUnavailable:
            log.warning("stream_not_held_yet", session_id=self._session_id)
        except HoldFull:
            self._is_hold_full = True

    async def _settle(self) -> None:
        """Hold all audio of the connection if the vendor lacks some of it; else drop what is held."""
        audio = self._backlog.log
        if self._is_aborted:
            return
        if audio is None or self._is_over or self._backlog.is_all_taken:
            await self._hold.drop()
            return
        is_whole = self._backlog.is_whole and self._earlier.is_whole
        for tries in range(self._rule.store_tries, -1, -1):
            try:
                await self._hold.finish(audio, self._backlog.taken_until, is_whole=is_whole)
            except StoreUnavailable:
                if not tries:
                    raise
                await asyncio.sleep(self._rule.store_wait)
            else:
                return

    async def _record_interruption(self, *, is_over: bool, replayed_bytes: int) -> None:
        seconds = asyncio.get_running_loop().time() - self._broken_at
        await self._hold.record_interruption(
            Interruption(
                number=self._interruptions,
                cause=self._cause,
                seconds=round(seconds, 3),
                held_frames=self._held_frames,
                replayed_bytes=replayed_bytes,
                is_over=is_over,
            )
        )


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
