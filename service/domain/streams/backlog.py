"""The frames of a stream that the vendor may lack; with `keeps_all` the others, too."""

from collections import deque
from collections.abc import Callable

from service.domain.streams.audio_log import AudioLog
from service.domain.streams.frames import Frame, Repeated, is_event
from service.domain.streams.sides import VendorConnection

# Makes a log for frames of which the first is a text or not.
MakeLog = Callable[[bool], AudioLog]


class Backlog:
    """The frames that were sent and not confirmed; while the vendor is away, all that it lacks, in a log."""

    def __init__(self, make_log: MakeLog, *, keeps_all: bool) -> None:
        self._make_log = make_log
        self._keeps_all = keeps_all
        self.opening: Frame = b""
        # The frames that were sent on the present connection and that the vendor has not confirmed.
        self.recent: deque[Frame] = deque()
        # The frames since the vendor broke, those that it lacks first; with `keeps_all` all frames.
        self.log: AudioLog | None = None
        self.taken_until = self._sent_until = 0  # positions in the log
        self.has_passed = False  # the vendor has frames that are not in the log

    @property
    def is_all_taken(self) -> bool:
        """Whether the vendor has every frame."""
        return self.log is None or self.taken_until >= self.log.size

    @property
    def is_all_sent(self) -> bool:
        """Whether every frame was sent on the present connection or taken before."""
        return self.log is None or self._sent_until >= self.log.size

    @property
    def is_whole(self) -> bool:
        """Whether the log has every frame of this connection."""
        return self.log is not None and self.log.is_whole and (self._keeps_all or not self.has_passed)

    def begin(self, opening: Frame, *, needs_log: bool) -> None:
        """Choose the form by the first frame."""
        self.opening = opening
        if self._keeps_all or needs_log:
            self.open_log().must_keep = True

    def open_log(self) -> AudioLog:
        """Return the log; a new one if there is none, because the vendor has all frames before."""
        if self.log is None:
            self.log = self._make_log(isinstance(self.opening, str))
            self._sent_until = self.taken_until = 0
        return self.log

    def count_sent(self, frame: Frame) -> None:
        """Keep a frame that was sent."""
        self.recent.append(frame)
        if self.log is not None:
            self.log.append_frame(frame)

    def confirm(self, frames: int) -> None:
        """Drop the oldest sent frames, which the vendor has received."""
        self.has_passed |= self.log is None
        for _ in range(min(frames, len(self.recent))):
            self.recent.popleft()

    def release(self) -> None:
        """Drop the log, unless it is to have all frames: everything in it was sent."""
        if self.log is None:
            return
        self.log.must_keep = False
        if not self._keeps_all:
            self.has_passed |= self.log.size > 0
            self.close()

    def note_end(self, vendor: VendorConnection, *, was_live: bool) -> None:
        """Find out what a connection that ended has not taken, and keep it in the log."""
        recent = list(self.recent)
        self.recent.clear()
        missing = min(vendor.unconfirmed_frames(list(map(len, recent))), len(recent))
        lost = recent[len(recent) - missing :]
        if self.log is None:
            self.has_passed |= missing < len(recent)
            for frame in lost:
                self.open_log().append_frame(frame)
            return
        if was_live:
            self._sent_until = self.log.size
        taken_until = self._sent_until - sum(map(self.log.size_of, lost))
        self.taken_until = max(self.log.start, taken_until)

    async def replay(self, vendor: VendorConnection, stop: Frame | None, *, repeats_opening: bool) -> int:
        """Send what the vendor lacks on a new connection; return how many bytes it was. Raises VendorGone."""
        audio = self.open_log()
        position = begun = self._sent_until = self.taken_until
        if is_event(self.opening, "start") and (position or self.has_passed or repeats_opening):
            await vendor.send(self.opening)
            self.recent.append(Repeated(self.opening))
        while position < audio.size:
            frame, position = audio.next_frame(position)
            await vendor.send(frame)
            self.recent.append(frame)
            self._sent_until = position
        if stop is not None and not audio.has_texts:
            await vendor.send(stop)
            self.recent.append(stop)
        return audio.size - begun

    def close(self) -> None:
        """Drop the log."""
        if self.log is not None:
            self.log.close()
            self.log = None
