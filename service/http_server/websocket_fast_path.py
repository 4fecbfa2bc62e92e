"""Reads the plain binary frames of live streams without the WebSocket library's parser.

Nearly all that comes on a stream is whole binary frames of audio. These are read here and handed to a relay
within the same event-loop callback, which saves a fifth of a frame's CPU. Everything else (text, pings,
closes, fragments, faults) goes to the library, and so does a binary frame that the handler declines.

A connection reads no faster than its share of the frames that a process can take (frame_limits.py): one read
may hold forty thousand frames, and one callback of the event loop many reads.
"""

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from service.http_server.frame_limits import HELD, FrameRate
from service.http_server.http_limits import CUT

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - the library without its C extension
    from websockets.utils import apply_mask

FrameHandler = Callable[[bytes], bool]

_SET_HANDLER = "ekabridge.set_frame_handler"
# The first byte of a whole binary message, the bit that says that a frame is masked, and the first of the
# lengths that announce more bytes of length (RFC 6455, 5.2).
_BINARY = 0x82
_MASKED, _LENGTH = 0x80, 0x7F
_SHORT = 126
_MASK_BYTES = 4
# The library takes several times as long for a frame, and reads all that it is given.
_LIBRARY_TIMES = 4
_SLICE_BYTES = 1024


def on_binary_frame(scope: Any, handler: FrameHandler) -> None:
    """Have each binary frame given to `handler` first; a frame for which it returns false is queued as ever.

    The handler is called only while no message is queued, so the order stays. It must not raise.
    """
    if (set_handler := scope.get(_SET_HANDLER)) is not None:
        set_handler(handler)


class FastPathWebSocketProtocol(WebSocketsSansIOProtocol):
    """Reads the heads of frames itself, and never holds more than one incomplete frame."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._handler: FrameHandler | None = None
        # False once the library's parser may stand within a frame: it then has to read all the rest.
        self._is_between_frames = True
        self._held = bytearray()
        self._wanted_bytes = 0
        # Bytes that came too fast: they are read later, and nothing more until then.
        self._late = bytearray()
        self._queued_bytes = 0
        self._rate = FrameRate(self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the memory that the connection held."""
        self._rate.end()
        HELD.count(self, 0)
        self._held, self._late = bytearray(), bytearray()
        self.frames.clear()
        super().connection_lost(exc)

    def handle_connect(self, event: Any) -> None:
        """Give the application the means to set its handler."""
        super().handle_connect(event)
        if not self.close_sent:
            extended: Any = self.scope
            extended[_SET_HANDLER] = self._set_handler

    def _set_handler(self, handler: FrameHandler) -> None:
        self._handler = handler

    def data_received(self, data: bytes) -> None:
        """Read frames, or leave them to the library where only it can."""
        if self._late:
            self._late += data
            self.transport.pause_reading()
        else:
            self._take(data)
        self._count_held()

    def _take(self, data: bytes) -> None:
        if self._is_between_frames and self.handshake_complete and not self.close_sent:
            self._read(data)
            return
        held, self._held = self._held, bytearray()
        self._is_between_frames = not self.handshake_initiated
        self._feed_in_slices(bytes(held) + data)

    def _feed_in_slices(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE_BYTES):
            if self.conn.parser_exc is not None or self.transport.is_closing():
                return
            if seconds := self._seconds_too_fast():
                self._put_off(data[start:], seconds)
                return
            self._feed(data[start : start + _SLICE_BYTES])

    def _feed(self, data: bytes) -> None:
        """Let the library read; queue the frames before a fault, too, which uvicorn would drop."""
        self.conn.receive_data(data)
        self._rate.left -= _LIBRARY_TIMES * len(self.conn.events)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _seconds_too_fast(self) -> float:
        """Return for how long the next frame has to wait; 0 if not at all."""
        return 0.0 if self._rate.left >= 1 else self._rate.refill(self.loop.time())

    def _put_off(self, rest: bytes, seconds: float) -> None:
        self._late += rest
        self.transport.pause_reading()
        self.loop.call_later(seconds, self._read_late)

    def _read_late(self) -> None:
        late, self._late = bytes(self._late), bytearray()
        if self.transport.is_closing():
            return
        self._take(late)
        self._count_held()
        if not self._late and self.queue.empty() and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """Return the next message; read on when the queue is empty, unless what came too fast waits."""
        message = await self.queue.get()
        if self.queue.empty():
            self._queued_bytes = 0
            self._count_held()
            if self.read_paused and not self._late:
                self.read_paused = False
                self.transport.resume_reading()
        return message

    def send_receive_event_to_app(self) -> None:
        """Queue a message, and count it."""
        self._queued_bytes += sum(map(len, self.frames))
        super().send_receive_event_to_app()

    def _count_held(self) -> None:
        library = len(self.conn.reader.buffer) + (self.conn.current_size or 0)
        HELD.count(self, len(self._held) + len(self._late) + self._queued_bytes + library)

    def cut(self) -> None:
        """Cut the connection: with others it holds more bytes than there is memory for."""
        CUT.labels("frames_held").inc()
        self.transport.abort()

    def _read(self, data: bytes) -> None:
        if self._held:
            self._held += data
            if len(self._held) < self._wanted_bytes:
                return
            data, self._held = bytes(self._held), bytearray()
        start, size = 0, len(data)
        while start < size:
            if seconds := self._seconds_too_fast():
                self._put_off(data[start:], seconds)
                return
            body, end = _measure(data, start, size)
            if not body or end - body > (self.conn.max_message_size or 0):
                self._hand_over(data[start:])
                return
            if end > size:
                self._held, self._wanted_bytes = bytearray(data[start:]), end - start
                return
            if data[start] == _BINARY and self.conn.current_size is None:
                self._rate.left -= 1
                self._deliver(apply_mask(data[body:end], data[body - _MASK_BYTES : body]))
            else:
                self._feed(data[start:end])
                if self.conn.state is not State.OPEN:
                    self._hand_over(data[end:])
                    return
            start = end

    def _hand_over(self, data: bytes) -> None:
        """Leave this and all later input to the library."""
        self._is_between_frames = False
        self._feed_in_slices(data)

    def _deliver(self, frame: bytes) -> None:
        if self._handler is not None and self.queue.empty() and self._handler(frame):
            return
        self.curr_msg_data_type = "bytes"
        self.frames = [frame]
        self.send_receive_event_to_app()


def _measure(data: bytes, start: int, size: int) -> tuple[int, int]:
    """Return where the body of the frame at `start` begins and ends, as far as its head has arrived.

    The body begins at 0 if the frame is not masked, which is a fault: clients have to mask.
    """
    if size - start < 2:  # noqa: PLR2004 - the bytes that every frame has
        return start + 2, start + 2
    second = data[start + 1]
    if not second & _MASKED:
        return 0, 0
    length, head = second & _LENGTH, 2
    if length >= _SHORT:
        head += 2 if length == _SHORT else 8
        written = data[start + 2 : start + head]
        length = int.from_bytes(written, "big") if size - start >= head else 0
    body = start + head + _MASK_BYTES
    return body, body + length
