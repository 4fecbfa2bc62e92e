"""Cuts a recording into chunks that are held for the vendor; the handover of held audio sends them.

An interrupted cut starts again: the chunks of the earlier try are replaced, because nothing is sent before
the last chunk is held.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from service.domain.audio.uploads import chunk_file_name
from service.domain.errors import Overloaded, SessionEnded
from service.domain.recordings.length import check_length
from service.domain.recordings.models import CutLimits, StoredRecording, TemporaryRecording
from service.domain.recordings.ports import RecordingReader, UncutRecordings
from service.domain.sessions.models import PendingCall
from service.domain.vendor import VendorLimits
from service.domain.vendor_limits import Limits

log = structlog.get_logger()

# A recording is copied to the disk before it is cut, so only a few may be in work. The others do not wait in
# the pool of pending calls, where calls of other sessions need the slots.
_MAX_CUTS = 2
_RETRY_AFTER_SECONDS = 5.0
_LEASE_LOST = "the session was cancelled or erased, or another worker took its call over"


class RecordingCutter:
    """Cuts the recordings of pending calls."""

    def __init__(
        self,
        *,
        store: UncutRecordings,
        reader: RecordingReader,
        limits: VendorLimits,
        cut_limits: Callable[[Limits], CutLimits],
        open_file: Callable[[], TemporaryRecording],
    ) -> None:
        self._store = store
        self._reader = reader
        self._limits = limits
        self._cut_limits = cut_limits
        self._open_file = open_file
        self._cuts = asyncio.Semaphore(_MAX_CUTS)

    @property
    def is_busy(self) -> bool:
        """Whether this process cuts as many recordings as it may."""
        return self._cuts.locked()

    async def find(self, pending: PendingCall) -> StoredRecording | None:
        """Return the recording that must be cut before the handover, if there is one."""
        return await self._store.uncut(pending.session_id, pending.lease)

    async def cut(self, pending: PendingCall, recording: StoredRecording) -> None:
        """Cut the recording and hold its chunks.

        Raises RecordingUnreadable, RecordingTooLong, Overloaded if it must be tried again, or SessionEnded if
        the lease was lost.
        """
        try:
            async with self._cuts:
                with contextlib.closing(self._open_file()) as file:
                    async for block in self._store.read(recording):
                        file.write(block)
                    file.finish()
                    await self._inspect(pending, recording, file)
                    chunks = await self._hold_chunks(pending, recording, file)
        except OSError as error:
            log.error("spool_failed", error=type(error).__name__, errno=error.errno)
            raise Overloaded(
                "the folder for temporary files is full", retry_after_seconds=_RETRY_AFTER_SECONDS
            ) from error
        log.info("recording_cut", session_id=recording.session_id, chunks=chunks)

    async def _inspect(
        self, pending: PendingCall, recording: StoredRecording, file: TemporaryRecording
    ) -> None:
        """Inspect a recording that came in pieces, of which nobody has seen the whole before."""
        if recording.seconds is not None:
            return
        facts = await self._reader.inspect(file)
        check_length(facts.seconds, recording.model, await self._limits.limits())
        _check(await self._store.record_seconds(recording, pending.lease, facts.seconds))

    async def _hold_chunks(
        self, pending: PendingCall, recording: StoredRecording, file: TemporaryRecording
    ) -> int:
        _check(await self._store.delete_chunks(recording, pending.lease))
        chunks = 0
        cut = self._reader.cut(file, self._cut_limits(await self._limits.limits()))
        async with contextlib.aclosing(cut):
            async for chunk in cut:
                name = chunk_file_name(chunk.sequence, chunk.format)
                _check(await self._store.hold_chunk(recording, pending.lease, chunk, name))
                chunks += 1
        _check(await self._store.record_cut(recording, pending.lease, chunks))
        return chunks


def _check(is_leased: bool) -> None:
    if not is_leased:
        raise SessionEnded(_LEASE_LOST)
