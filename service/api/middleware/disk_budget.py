"""Limits the disk that the bodies of uploads use together, and the part of it for whole recordings."""

from service.api.middleware.load_monitor import BUFFER_BYTES, BUFFER_LIMIT_BYTES
from service.api.middleware.request_class import RequestClass
from service.settings import Settings

# A form may be larger than its file by so many bytes.
FORM_BYTES = 131_072
# Recordings may use this part of the disk; the rest stays free for chunks.
RECORDINGS_SHARE = 0.75


class DiskBudget:
    """The bytes of disk that all request bodies of a process together may use."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        BUFFER_LIMIT_BYTES.set(max_bytes)

    def check(self, request_class: RequestClass, size: int) -> None:
        """Raise Overloaded if fewer bytes than `size` are free."""
        if self.used_bytes + size > self.max_bytes:
            raise request_class.refusal("spool")

    def share(self, part: float) -> "DiskBudget":
        """Return a budget of a part of these bytes, for one kind of bodies."""
        return _DiskShare(self, int(self.max_bytes * part))

    def acquire(self, size: int) -> None:
        """Count bytes as used."""
        self.used_bytes += size
        BUFFER_BYTES.inc(size)

    def release(self, size: int) -> None:
        """Count bytes as free again."""
        self.used_bytes -= size
        BUFFER_BYTES.dec(size)


class _DiskShare(DiskBudget):
    """A part of a disk budget; what it uses counts for the whole budget, too."""

    def __init__(self, whole: DiskBudget, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._whole = whole

    def check(self, request_class: RequestClass, size: int) -> None:
        """Raise Overloaded if fewer bytes than `size` are free."""
        if self.used_bytes + size > self.max_bytes:
            raise request_class.refusal("spool")
        self._whole.check(request_class, size)

    def acquire(self, size: int) -> None:
        """Count bytes as used."""
        self.used_bytes += size
        self._whole.acquire(size)

    def release(self, size: int) -> None:
        """Count bytes as free again."""
        self.used_bytes -= size
        self._whole.release(size)


def max_recording_bytes(settings: Settings) -> int:
    """Return how large a recording may be: its setting, or what the disk for recordings can hold."""
    return min(settings.recording_max_bytes, int(settings.max_spool_bytes * RECORDINGS_SHARE) - FORM_BYTES)
