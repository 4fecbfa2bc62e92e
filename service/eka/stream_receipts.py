"""Tells which frames of a stream the vendor has received, although its protocol acknowledges none.

A WebSocket's peer answers a ping after it has read everything before the ping. A ping after every frame
would cost a third of the relay's work, so a ping follows 6 seconds of audio. For the frames since the last
answered ping, TCP tells how many bytes the vendor's host has acknowledged; that counts only while the vendor
answers pings, because a host acknowledges what a hanging process will never read.

Hosts delay acknowledgements by some hundredths of a second. If the vendor's side itself ended the connection,
it had read what was sent a ping's round trip before. So only the frames of that time are doubtful, and those
are sent again: the vendor rather gets an instant twice than not at all.
"""

import fcntl
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic as now
from typing import Any

from websockets.asyncio.client import ClientConnection

# 6.4 seconds of audio, which the relay keeps until the answer.
_PING_BYTES = 204_800
# A vendor that leaves a ping unanswered for this time may not read what its host acknowledges.
_MAX_ANSWER_SECONDS = 2.0
# A frame's own head and mask, and for TLS the records around it.
_SHORT_HEAD_BYTES, _MEDIUM_HEAD_BYTES, _LONG_HEAD_BYTES = 6, 8, 14
_SHORT_FRAME, _MEDIUM_FRAME = 125, 65_535
_TLS_RECORD, _TLS_RECORD_BYTES = 16_384, 29
_PING_HEAD = struct.Struct(">Q")
# A host acknowledges within this time; later, something was lost on the way.
_MAX_DELAY_SECONDS = 0.25
_MIN_DOUBT_SECONDS = 0.001
# The latest frames whose times are known.
_MAX_TIMES = 256
# Linux: the bytes in a socket's queue that the peer's host has not acknowledged; in TCP_INFO those it has.
_SIOCOUTQ = 0x5411
_TCP_INFO_BYTES, _ACKNOWLEDGED_OFFSET = 192, 120
_QUADWORD, _WORD = struct.Struct("=Q"), struct.Struct("=I")


class ConfirmingConnection(ClientConnection):
    """A client connection that reports answered pings, and its end while the socket is still there."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.receipts: Receipts | None = None
        self.is_ended_by_peer = False

    def acknowledge_pings(self, data: bytes) -> None:
        """Note that the vendor answered a ping."""
        if self.receipts is not None:
            self.receipts.note_answer(data)
        super().acknowledge_pings(data)

    def eof_received(self) -> None:
        """Note that the vendor's side ends the connection."""
        self.is_ended_by_peer = True
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end of the connection."""
        self.is_ended_by_peer |= isinstance(exc, ConnectionError) or self.protocol.close_rcvd is not None
        if self.receipts is not None:
            self.receipts.note_end()
        super().connection_lost(exc)


class Receipts:
    """The frames of one connection that no answered ping confirms yet.

    The sender of a frame counts it in `frames`, `times` and `until_ping`: a call for that costs too much.
    """

    def __init__(self, connection: ConfirmingConnection) -> None:
        self._connection = connection
        self._is_encrypted = connection.transport.get_extra_info("ssl_object") is not None
        # The frames since the last answered ping, and when the latest of them were sent.
        self.frames = 0
        self.times: deque[float] = deque(maxlen=_MAX_TIMES)
        self.until_ping = 1  # the first frame is followed by a ping, which measures the round trip
        self.on_confirmed: Callable[[int], None] = lambda _: None
        self._asked: deque[_Asked] = deque()
        self._number = 0
        # All bytes that were sent up to the last answered ping; None if unknown.
        self._sent_before = self._sent_bytes()
        self._end: tuple[float, int] | None = None
        self._round_trip = _MAX_DELAY_SECONDS
        self._has_ended = False

    def ask(self) -> None:
        """Send a ping behind the last frame."""
        self.until_ping = _PING_BYTES
        self._number += 1
        self._connection.protocol.send_ping(_PING_HEAD.pack(self._number))
        self._connection.send_data()
        self._asked.append(_Asked(self._number, self.frames, now(), self._sent_bytes()))

    def note_answer(self, data: bytes) -> None:
        """Drop the frames before the ping that was answered, and before earlier ones."""
        if len(data) != _PING_HEAD.size or not self._asked:
            return
        (number,) = _PING_HEAD.unpack(data)
        if number < self._asked[0].number or number > self._number:
            return
        confirmed = 0
        while self._asked and self._asked[0].number <= number:
            asked = self._asked.popleft()
            confirmed = asked.frames
            self._round_trip, self._sent_before = now() - asked.at, asked.sent_bytes
        self.frames -= confirmed
        for later in self._asked:
            later.frames -= confirmed
        self.on_confirmed(confirmed)

    def note_end(self) -> None:
        """Read what the vendor's host acknowledged, while the socket is still there."""
        if not self._has_ended:
            self._has_ended = True
            acknowledged = self._acknowledged_bytes()
            self._end = None if acknowledged is None else (now(), acknowledged)

    def unconfirmed(self, sizes: Sequence[int]) -> int:
        """Return how many of the latest frames the vendor may lack, given the latest frames' sizes."""
        self.note_end()
        if self._sent_before is None or self._end is None or not self._answers():
            return self.frames
        ended_at, acknowledged = self._end
        missing = self._unacknowledged(acknowledged - self._sent_before, sizes)
        if not self._connection.is_ended_by_peer:
            return missing
        doubtful = self._sent_since(ended_at - 2 * self._round_trip - _MIN_DOUBT_SECONDS)
        doubtful = min(doubtful, self.frames)
        if missing <= self._sent_since(ended_at - _MAX_DELAY_SECONDS):
            return doubtful
        return max(missing, doubtful)

    def _unacknowledged(self, room: int, sizes: Sequence[int]) -> int:
        missing = self.frames
        for size in islice(sizes, max(0, len(sizes) - self.frames), None):
            room -= self._wire_bytes(size)
            if room < 0:
                break
            missing -= 1
        return missing

    def _sent_since(self, time_of: float) -> int:
        """Return how many frames were sent after a time."""
        count = 0
        for sent_at in reversed(self.times):
            if sent_at < time_of:
                break
            count += 1
        return count

    def _answers(self) -> bool:
        return not self._asked or now() - self._asked[0].at < _MAX_ANSWER_SECONDS

    def _wire_bytes(self, size: int) -> int:
        head = _SHORT_HEAD_BYTES if size <= _SHORT_FRAME else _MEDIUM_HEAD_BYTES
        sent = size + (head if size <= _MEDIUM_FRAME else _LONG_HEAD_BYTES)
        return sent + self._is_encrypted * math.ceil(sent / _TLS_RECORD) * _TLS_RECORD_BYTES

    def _acknowledged_bytes(self) -> int | None:
        """Return how many bytes the vendor's host has acknowledged; None if that is unknown."""
        return self._count_bytes(with_waiting=False)

    def _sent_bytes(self) -> int | None:
        """Return how many bytes the system was given to send; None if some still wait in the process."""
        if self._connection.transport.get_write_buffer_size():
            return None
        return self._count_bytes(with_waiting=True)

    def _count_bytes(self, *, with_waiting: bool) -> int | None:
        own = self._socket()
        if own is None:
            return None
        with own:
            try:
                info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                (count,) = _QUADWORD.unpack_from(info, _ACKNOWLEDGED_OFFSET)
                waiting = (
                    fcntl.ioctl(own, _SIOCOUTQ, bytes(_WORD.size)) if with_waiting else bytes(_WORD.size)
                )
            except (OSError, AttributeError, struct.error):
                return None
        return int(count + _WORD.unpack(waiting)[0])

    def _socket(self) -> socket.socket | None:
        """Return a copy of the connection's socket; none without TCP."""
        found = self._connection.transport.get_extra_info("socket")
        try:
            return None if found is None else socket.socket(fileno=os.dup(found.fileno()))
        except OSError:
            return None


class _Asked:
    """A ping that was sent, and how many frames of those that are not confirmed came before it."""

    __slots__ = ("at", "frames", "number", "sent_bytes")

    def __init__(self, number: int, frames: int, at: float, sent_bytes: int | None) -> None:
        self.number, self.frames, self.at, self.sent_bytes = number, frames, at, sent_bytes
