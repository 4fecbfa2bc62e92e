"""The short way of a live stream's audio through the server: from the read to whoever passes it on.

Nearly all that comes on a stream is whole binary frames. These are read here and given to a taker in the
same turn of the event loop. Whatever else comes (text, pings, closes, fragments, faults) is the library's
matter, and a frame that the taker does not take goes the library's way from there.
"""

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - the library without its C extension
    from websockets.utils import apply_mask

Take = Callable[[bytes], bool]

_SET_TAKER = "ekabridge.frames.set_taker"
# RFC 6455, 5.2: the last frame of its message, binary; the mask's bit; how its length is written.
_BINARY = 0x82
_MASKED, _LENGTH = 0x80, 0x7F
_SHORT, _LONG = 126, 127
_MASK_BYTES = 4


def give_frames(scope: Any, take: Take) -> None:
    """Have binary frames given to `take` first; what it refuses comes as a message, as ever.

    It is called only while no message waits to be received, so the order stays; it must not raise.
    """
    if (set_taker := scope.get(_SET_TAKER)) is not None:
        set_taker(take)


class FastPathWebSocketProtocol(WebSocketsSansIOProtocol):
    """Reads frames' heads by itself, so that plain ones need no parser; never holds more than one frame."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._take: Take | None = None
        # Where the library's parser may stand within a frame, it has all the rest.
        self._is_between_frames = True
        self._held = bytearray()
        self._wanted = 0

    def handle_connect(self, event: Any) -> None:
        """Tell the application how it can have frames sooner."""
        super().handle_connect(event)
        if not self.close_sent:
            extended: Any = self.scope
            extended[_SET_TAKER] = self._set_taker

    def _set_taker(self, take: Take) -> None:
        self._take = take

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._is_between_frames and self.handshake_complete and not self.close_sent:
            self._read(data)
            return
        held, self._held = self._held, bytearray()
        self._is_between_frames = not self.handshake_initiated
        self._feed(bytes(held) + data)

    def _feed(self, data: bytes) -> None:
        """Let the library read; hand on what came before a fault, too, which it drops by itself."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def _read(self, data: bytes) -> None:
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return
            data, self._held = bytes(self._held), bytearray()
        start, size = 0, len(data)
        while start < size:
            body, end = _measure(data, start, size)
            if not body or end - body > (self.conn.max_message_size or 0):
                self._leave(data[start:])
                return
            if end > size:
                self._held, self._wanted = bytearray(data[start:]), end - start
                return
            if data[start] == _BINARY and self.conn.current_size is None:
                self._give(apply_mask(data[body:end], data[body - _MASK_BYTES : body]))
            else:
                self._feed(data[start:end])
                if self.conn.state is not State.OPEN:
                    self._leave(data[end:])
                    return
            start = end

    def _leave(self, data: bytes) -> None:
        """Leave this and all that comes to the library."""
        self._is_between_frames = False
        self._feed(data)

    def _give(self, frame: bytes) -> None:
        if self._take is not None and self.queue.empty() and self._take(frame):
            return
        self.curr_msg_data_type = "bytes"
        self.frames = [frame]
        self.send_receive_event_to_app()


def _measure(data: bytes, start: int, size: int) -> tuple[int, int]:
    """Return where the body of the frame at `start` begins and ends, as far as its head has come.

    The body begins at 0 if the frame has no mask, which no client may do.
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
