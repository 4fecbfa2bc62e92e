"""Limits of what the frames of WebSockets may cost: their number, and the bytes that wait to become a frame.

A frame of audio is 3,200 bytes, ten a second. A client may send frames of no bytes, forty thousand in one
read; and every client may begin a frame of a mebibyte that it never ends.
"""

from typing import Protocol
from weakref import WeakSet


class FrameRate:
    """The frames that one connection may bring now; all connections of a process share a rate equally."""

    all_per_second = 20_000.0
    # Twice as many as any client sends that speaks.
    min_per_second = 100.0
    _BURST_SECONDS = 0.05
    _MIN_BURST = 100.0

    def __init__(self, now: float) -> None:
        self._at = now
        self.left = self._MIN_BURST
        _RATES.add(self)

    def refill(self, now: float) -> float:
        """Add the frames of the time that passed; return for how many seconds to wait, 0 if for none."""
        per_second = max(self.min_per_second, self.all_per_second / len(_RATES))
        burst = max(self._MIN_BURST, per_second * self._BURST_SECONDS)
        self.left = min(burst, self.left + max(0.0, now - self._at) * per_second)
        self._at = now
        return 0.0 if self.left >= 1 else (burst / 2 - self.left) / per_second

    def end(self) -> None:
        """Leave the rate to the other connections."""
        _RATES.discard(self)


_RATES: WeakSet[FrameRate] = WeakSet()


class Holder(Protocol):
    """A connection that holds bytes."""

    def cut(self) -> None:
        """Cut the connection."""
        ...


class HeldBytes:
    """The bytes of frames that are not whole, or not passed on, of all connections.

    Few bytes of one connection are not counted. An honest frame is whole within moments, so at the limit the
    connection that has held for longest is cut.
    """

    max_bytes = 64 * 1024 * 1024
    free_bytes = 65_536

    def __init__(self) -> None:
        self.total = 0
        self._sizes: dict[Holder, int] = {}

    def count(self, holder: Holder, size: int) -> None:
        """Note how many bytes a connection holds now."""
        if size <= self.free_bytes:
            self.total -= self._sizes.pop(holder, 0)
            return
        self.total += size - self._sizes.get(holder, 0)
        self._sizes[holder] = size
        while self.total > self.max_bytes:
            oldest = next(iter(self._sizes))
            self.total -= self._sizes.pop(oldest)
            oldest.cut()


HELD = HeldBytes()
