"""The port to the process that reads and cuts recordings."""

from collections.abc import AsyncGenerator
from typing import Protocol

from service.domain.recordings.models import CutChunk, CutLimits, RecordingFacts, RecordingFile


class RecordingReader(Protocol):
    """Reads recordings of any common format, hostile ones too, in a process with limits."""

    async def inspect(self, recording: RecordingFile) -> RecordingFacts:
        """Read the recording's container to its end and return the facts of its audio track.

        Raises RecordingUnreadable, or Overloaded if no process was free or it was killed from outside.
        """
        ...

    def cut(self, recording: RecordingFile, limits: CutLimits) -> AsyncGenerator[CutChunk, None]:
        """Yield the recording's audio in chunks within the limits, at silence where there is one.

        The recording stays open until the generator is closed: use `contextlib.aclosing`. Raises
        RecordingUnreadable, possibly after some chunks, or Overloaded as `inspect` does. The same recording
        and limits always give the same chunks, so a job that was interrupted can cut again.
        """
        ...
