"""Keeps the frames of a stream's connection, in order, so that they can be sent again.

The last frames are in memory and the others in the process's encrypted spool. While the vendor takes the
stream, nothing of it reaches PostgreSQL (docs/adr/034-streams-that-heal.md has the figures).
"""

import struct
from typing import Protocol

from service.domain.streams.frames import Frame, Repeated

# So much of a stream waits in memory for the spool: 4 seconds of audio.
_MEMORY_BYTES = 131_072
# A piece becomes one chunk, which should last at most 20 seconds: 640,000 bytes
# (docs/vendor.md#chunk-limits).
_PIECE_BYTES = 4 * _MEMORY_BYTES
# The length of a frame that is a text or stands among texts, and whether it is one.
_HEAD = struct.Struct(">I?")
# Binary audio is sent again in frames of one second.
_REPLAY_BYTES = 32_000


class Spool(Protocol):
    """Bytes on disk, encrypted."""

    def append(self, data: bytes) -> bool:
        """Append bytes; False if there is no room."""
        ...

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes between two positions."""
        ...

    def clear(self) -> None:
        """Drop all bytes."""
        ...


class AudioLog:
    """The frames of one connection, addressed by positions.

    Binary audio is kept as it is, and may be cut anywhere. If the first frame is a text, each frame has a
    head with its length, and positions lie between frames.
    """

    def __init__(self, spool: Spool, *, has_texts: bool) -> None:
        self._spool = spool
        self.has_texts = has_texts
        self._memory: list[bytes] = []
        self._memory_bytes = 0
        self._spooled_until = 0
        self.start = 0  # the position of the first byte that is still kept
        self.size = 0
        # The positions at which pieces begin; the last piece is not finished yet.
        self.cuts = [0]
        self._last_cut = 0
        # While this is true, no byte may be dropped to make room.
        self.must_keep = False
        # Whether the disk had no room for the latest bytes, so that memory alone has them.
        self.is_full = False
        self.is_closed = False

    @property
    def is_whole(self) -> bool:
        """Whether everything is kept from the first frame on."""
        return self.start == 0

    def append(self, data: bytes) -> None:
        """Keep binary audio."""
        self._memory.append(data)
        size = len(data)
        self.size += size
        self._memory_bytes += size
        if self._memory_bytes >= _MEMORY_BYTES:
            self._spool_memory()

    def append_frame(self, frame: Frame) -> None:
        """Keep a frame of either kind."""
        if isinstance(frame, Repeated):
            return
        if not self.has_texts:
            if not isinstance(frame, str):  # texts among binary audio hold none
                self.append(frame)
            return
        data = frame.encode() if isinstance(frame, str) else frame
        self.append(_HEAD.pack(len(data), isinstance(frame, str)) + data)

    def size_of(self, frame: Frame) -> int:
        """Return how many positions a frame takes that was sent from here."""
        if isinstance(frame, Repeated) or (isinstance(frame, str) and not self.has_texts):
            return 0
        size = len(frame.encode() if isinstance(frame, str) else frame)
        return _HEAD.size + size if self.has_texts else size

    def next_frame(self, position: int) -> tuple[Frame, int]:
        """Return the frame to send again from a position on, and the position after it."""
        if not self.has_texts:
            frame = self.read(position, min(position + _REPLAY_BYTES, self.size))
            return frame, position + len(frame)
        size, is_text = _HEAD.unpack(self.read(position, position + _HEAD.size))
        end = position + _HEAD.size + size
        data = self.read(position + _HEAD.size, end)
        return data.decode() if is_text else data, end

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes between two positions."""
        kept = b""
        if start < self._spooled_until:
            kept = self._spool.read(start - self.start, min(end, self._spooled_until) - self.start)
        if end > self._spooled_until:
            memory = b"".join(self._memory)
            first = max(start, self._spooled_until) - self._spooled_until
            kept += memory[first : end - self._spooled_until]
        return kept

    def cut(self) -> None:
        """End a piece here, and take its beginnings from nowhere else."""
        self.cuts = [cut for cut in self.cuts if cut <= self._last_cut]
        self._last_cut = self.size
        self.cuts.append(self.size)

    def close(self) -> None:
        """Drop everything."""
        self.is_closed = True
        self._spool.clear()
        self._memory, self._memory_bytes = [], 0
        self._spooled_until = self.start = self.size

    def _spool_memory(self) -> None:
        data = b"".join(self._memory)
        if not self._spool.append(data):
            if self.must_keep:
                self._memory, self.is_full = [data], True
                return
            self._forget()
            if not self._spool.append(data):
                self._forget(len(data))
        self._memory, self._memory_bytes = [], 0
        self._spooled_until = self.size
        if self.size - self.cuts[-1] >= _PIECE_BYTES:
            self.cuts.append(self._even(self.size))

    def _forget(self, more: int = 0) -> None:
        """Drop what is on disk, and `more` bytes: the log is no longer whole."""
        self._spool.clear()
        self.start = self._spooled_until + more
        self.cuts = [self.start if self.has_texts else self.start + self.start % 2]

    def _even(self, position: int) -> int:
        """Return where binary audio may be cut: a sample has two bytes."""
        return position if self.has_texts else position - position % 2
