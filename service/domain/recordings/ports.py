"""The ports to the process that reads and cuts recordings, and to their rows."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from service.domain.audio.models import Audio
from service.domain.idempotency import KeyedCall, Reservation
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.recordings.models import (
    CutChunk,
    CutLimits,
    RecordingFacts,
    RecordingFile,
    StoredRecording,
)
from service.domain.sessions.models import SessionPlan


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


class RecordingStore(Protocol):
    """Rows of recordings that are received."""

    async def find(self, call: KeyedCall) -> Reservation | None:
        """Return the earlier call with this Idempotency-Key, if there was one."""
        ...

    async def insert(
        self,
        plan: SessionPlan,
        audio: Audio,
        *,
        seconds: float,
        call: KeyedCall | None,
        life_seconds: float,
        reconcile_seconds: float,
    ) -> Reservation | None:
        """Insert the session, ended and held, with the recording and its bytes: all of it or nothing.

        Returns None, or the earlier call with the same Idempotency-Key; then nothing is inserted.
        """
        ...

    async def finish(self, call: KeyedCall, session_id: SessionId, answer: bytes) -> None:
        """Keep the answer that every repeat will get."""
        ...


class UncutRecordings(Protocol):
    """Rows of recordings that wait to be cut. Each change is fenced by the lease of the pending call."""

    async def uncut(self, session_id: SessionId, lease: Lease) -> StoredRecording | None:
        """Return the session's recording; None if it has none, it is cut, or the lease was lost."""
        ...

    def read(self, recording: StoredRecording) -> AsyncIterator[bytes]:
        """Yield the recording's bytes."""
        ...

    async def record_seconds(self, recording: StoredRecording, lease: Lease, seconds: float) -> bool:
        """Record the length of a recording; False if the lease was lost."""
        ...

    async def delete_chunks(self, recording: StoredRecording, lease: Lease) -> bool:
        """Delete the chunks of an earlier try; False if the lease was lost."""
        ...

    async def hold_chunk(
        self, recording: StoredRecording, lease: Lease, chunk: CutChunk, file_name: str
    ) -> bool:
        """Hold one chunk for the vendor; False if the lease was lost."""
        ...

    async def record_cut(self, recording: StoredRecording, lease: Lease, chunks: int) -> bool:
        """Record that all chunks are held; False if the lease was lost."""
        ...


class HeldAudioRoom(Protocol):
    """The limit of the audio that PostgreSQL keeps."""

    async def has_room(self, tenant_id: TenantId, size: int) -> bool:
        """Return whether so many more bytes may be kept for the tenant."""
        ...
