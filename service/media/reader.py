"""Reads and cuts recordings by FFmpeg, each in a child process (docs/adr/030-recordings-in-a-process.md)."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from service.domain.audio.models import AudioFormat
from service.domain.errors import BridgeError, Overloaded, RecordingUnreadable
from service.domain.recordings.models import CutChunk, CutLimits, RecordingFacts, RecordingFile
from service.media.child_process import ChildProcesses, ProcessFailed, ProcessKilled, ProcessLimits
from service.media.messages import Answer, Chunk, Cut, Facts, Failed, Kind, Reason, Request

_MEMORY_BYTES = 512 * 1024 * 1024
INSPECT_LIMITS = ProcessLimits(memory_bytes=_MEMORY_BYTES, cpu_seconds=20, wait_seconds=40.0)
# Four hours that are re-encoded take some two minutes of one core (docs/libraries.md#pyav-cost).
CUT_LIMITS = ProcessLimits(memory_bytes=_MEMORY_BYTES, cpu_seconds=900, wait_seconds=1800.0)
_RETRY_AFTER_SECONDS = 5.0
# Four hours in chunks of a fifth of a second; a process that sends more does not cut a recording.
_MAX_CHUNKS = 72_000

_DETAILS = {
    Reason.UNKNOWN_FORMAT: "the file is in no format of audio or video that is known",
    Reason.DAMAGED: "the file is damaged or ends too early, so its audio cannot be found",
    Reason.TRUNCATED: "the file ends before the end that its own header announces",
    Reason.NO_AUDIO_TRACK: "the file has no audio track",
    Reason.NO_SAMPLES: "the file's audio track has no samples",
    Reason.CODEC_UNSUPPORTED: "the file's audio is encoded with a codec that is not supported",
    Reason.NOT_DECODABLE: "the file's audio cannot be decoded",
    Reason.FORMAT_MISSING: "EkaScribe accepts no format that recordings can be cut into",
    Reason.MEMORY: "reading the file needs too much memory",
    Reason.TIME: "reading the file needs too much time",
    Reason.CRASHED: "the file makes the decoder crash",
}
# Kinds of file → the extensions of the vendor's formats for it, the better one first.
_EXTENSIONS = {Kind.WAV: ("wav",), Kind.OGG: ("ogg",), Kind.M4A: ("m4a", "mp4")}


class FFmpegReader:
    """Reads recordings in child processes, a few at once; implements RecordingReader."""

    def __init__(
        self,
        *,
        max_processes: int = 2,
        patience_seconds: float = 10.0,
        inspect_limits: ProcessLimits = INSPECT_LIMITS,
        cut_limits: ProcessLimits = CUT_LIMITS,
    ) -> None:
        """A call waits up to `patience_seconds` for one of `max_processes` to be free."""
        self._free = asyncio.Semaphore(max_processes)
        self._patience_seconds = patience_seconds
        self._inspect_limits = inspect_limits
        self._cut_limits = cut_limits
        self._processes = ChildProcesses()

    async def inspect(self, recording: RecordingFile) -> RecordingFacts:
        """Read the recording's container to its end and return the facts of its audio track.

        Raises RecordingUnreadable, or Overloaded if no process was free or it was killed from outside.
        """
        answers = self._answers(recording, self._inspect_limits, None)
        async with contextlib.aclosing(answers):
            answer, _ = await anext(answers)
        if not isinstance(answer, Facts):
            raise _unreadable(Reason.CRASHED)
        return RecordingFacts(
            seconds=answer.seconds,
            container=answer.container,
            codec=answer.codec,
            sample_rate=answer.sample_rate,
            channels=answer.channels,
            is_copyable=answer.is_copyable,
        )

    async def cut(self, recording: RecordingFile, limits: CutLimits) -> AsyncGenerator[CutChunk, None]:
        """Yield the recording's audio in chunks within the limits, at silence where there is one.

        One of the processes is in use until the generator is closed: use `contextlib.aclosing`. Raises as
        `inspect` does, possibly after some chunks.
        """
        formats = _formats_of(limits)
        cut = Cut(max_seconds=limits.max_seconds, max_bytes=limits.max_bytes, kinds=tuple(formats))
        answers = self._answers(recording, self._cut_limits, cut)
        sequence = 0
        async with contextlib.aclosing(answers):
            async for answer, data in answers:
                if not isinstance(answer, Chunk):
                    return
                # A decoder that was taken over could answer anything.
                is_possible = 0 <= answer.seconds <= limits.max_seconds and sequence < _MAX_CHUNKS
                if answer.kind not in formats or not is_possible:
                    raise _unreadable(Reason.CRASHED)
                yield CutChunk(
                    sequence=sequence,
                    start_seconds=answer.start_seconds,
                    seconds=answer.seconds,
                    format=formats[answer.kind],
                    data=data,
                )
                sequence += 1

    async def _answers(
        self, recording: RecordingFile, limits: ProcessLimits, cut: Cut | None
    ) -> AsyncGenerator[tuple[Answer, bytes], None]:
        request = Request(
            descriptor=recording.fileno(),
            key=recording.key,
            nonce=recording.nonce,
            size=recording.size,
            memory_bytes=limits.memory_bytes,
            cpu_seconds=limits.cpu_seconds,
            cut=cut,
        )
        max_bytes = cut.max_bytes if cut else 0
        async with self._process():
            answers = self._processes.answers(request, max_bytes=max_bytes, wait_seconds=limits.wait_seconds)
            async with contextlib.aclosing(answers):
                async for answer, data in _translated(answers):
                    if isinstance(answer, Failed):
                        raise _unreadable(answer.reason)
                    yield answer, data

    @contextlib.asynccontextmanager
    async def _process(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise _overloaded("too many recordings are being read at once") from None
        try:
            yield
        finally:
            self._free.release()


async def _translated(
    answers: AsyncGenerator[tuple[Answer, bytes], None],
) -> AsyncGenerator[tuple[Answer, bytes], None]:
    try:
        async for each in answers:
            yield each
    except ProcessFailed as error:
        raise _unreadable(error.reason) from error
    except ProcessKilled as error:
        raise _overloaded(
            "the process that reads the recording was killed or could not be started"
        ) from error


def _formats_of(limits: CutLimits) -> dict[Kind, AudioFormat]:
    """Return the vendor's format for each kind of file that it accepts; the longer name is more exact."""
    formats = {}
    for kind, extensions in _EXTENSIONS.items():
        for extension in extensions:
            named = [each for each in limits.formats if each.extension == extension]
            if named and kind not in formats:
                formats[kind] = max(named, key=lambda each: len(each.media_type))
    return formats


def _unreadable(reason: Reason) -> BridgeError:
    return RecordingUnreadable(_DETAILS[reason])


def _overloaded(detail: str) -> BridgeError:
    return Overloaded(detail, retry_after_seconds=_RETRY_AFTER_SECONDS)
