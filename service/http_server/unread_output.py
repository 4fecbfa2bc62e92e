"""Notices a client that does not read what we write to it: its answers would fill the memory."""


class UnreadOutput:
    """Measures for how long the unread output of one connection has hardly shrunk; times in seconds."""

    min_read_bytes = 65_536

    def __init__(self) -> None:
        self.written_bytes = 0
        self._read_bytes = self._unread_bytes = 0
        self._stalled_since: float | None = None

    def stalled_seconds(self, now: float, unread_bytes: int) -> float:
        """Return for how long the client of an HTTP answer has read less than `min_read_bytes`."""
        read_bytes = self.written_bytes - unread_bytes
        has_progress = read_bytes - self._read_bytes >= self.min_read_bytes
        if has_progress or self._stalled_since is None:
            self._read_bytes = read_bytes
        return self._seconds(now, unread_bytes, has_progress=has_progress)

    def stream_stalled_seconds(self, now: float, unread_bytes: int) -> float:
        """Return for how long the client of a WebSocket has read nothing.

        Another protocol writes there, so that only a buffer that shrinks shows progress.
        """
        has_progress = unread_bytes < self._unread_bytes
        self._unread_bytes = unread_bytes
        return self._seconds(now, unread_bytes, has_progress=has_progress)

    def _seconds(self, now: float, unread_bytes: int, *, has_progress: bool) -> float:
        if unread_bytes == 0:
            self._stalled_since = None
            return 0.0
        if has_progress or self._stalled_since is None:
            self._stalled_since = now
        return now - self._stalled_since
