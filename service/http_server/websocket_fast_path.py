"""Reads the plain binary frames of live streams without the WebSocket library's parser.

Nearly all that comes on a stream is whole binary frames of audio. These are read here and handed to a relay
within the same event-loop callback, which saves a fifth of a frame's CPU. Everything else (text, pings,
closes, fragments, faults) goes to the library, and so does a binary frame that the handler declines.
"""

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

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
        if self._is_between_frames and self.handshake_complete and not self.close_sent:
            self._read(data)
            return
        held, self._held = self._held, bytearray()
        self._is_between_frames = not self.handshake_initiated
        self._feed(bytes(held) + data)

    def _feed(self, data: bytes) -> None:
        """Let the library read; queue the frames before a fault, too, which uvicorn would drop."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _read(self, data: bytes) -> None:
        if self._held:
            self._held += data
            if len(self._held) < self._wanted_bytes:
                return
            data, self._held = bytes(self._held), bytearray()
        start, size = 0, len(data)
        while start < size:
            body, end = _measure(data, start, size)
            if not body or end - body > (self.conn.max_message_size or 0):
                self._hand_over(data[start:])
                return
            if end > size:
                self._held, self._wanted_bytes = bytearray(data[start:]), end - start
                return
            if data[start] == _BINARY and self.conn.current_size is None:
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
        self._feed(data)

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
