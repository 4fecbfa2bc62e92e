"""Kept audio: the chunks of a session whose bytes ekabridge still has, for export after a failure.

ekabridge keeps the bytes of a chunk while it is held, and for a week after its session ended badly.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from msgspec import Struct

from service.domain.api_keys.models import Principal
from service.domain.audio.archive import archive_size, read_archive
from service.domain.audio.models import KeptChunk
from service.domain.audit import Actor, AuditedUnit
from service.domain.errors import RecordingNotKept
from service.domain.ids import SessionId, TenantId
from service.domain.read_audit import ReadAudit

_ARCHIVE_TYPE = "application/zip"
_ACTION: Final = "recording.read"
# Small enough that the server need not cut them again, and large enough for few writes.
_PIECE_BYTES = 65_536


class KeptAudioStore(Protocol):
    """Chunks whose bytes are kept."""

    async def chunks(self, tenant_id: TenantId, session_id: SessionId) -> Sequence[KeptChunk]:
        """Return the kept chunks in order. Raises NotFound or SessionErased."""
        ...

    def read(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a chunk, block by block."""
        ...


class OperatorAudit(Protocol):
    """Rows of the audit trail."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[AuditedUnit]:
        """Open a transaction that holds nothing but audit entries."""
        ...


class KeptRecording(Struct, frozen=True, kw_only=True):
    """A session's kept audio as one file; `size` is None if it is not known before the end."""

    session_id: SessionId
    chunks: Sequence[KeptChunk]
    media_type: str
    file_name: str
    size: int | None


class KeptAudio:
    """Finds and reads the audio that is kept, and audits each read."""

    def __init__(self, store: KeptAudioStore) -> None:
        self._store = store

    async def open(self, principal: Principal, session_id: SessionId, audit: ReadAudit) -> KeptRecording:
        """Return what is kept of a session's audio, and record that the key read it.

        Raises NotFound, SessionErased or RecordingNotKept.
        """
        recording = await self._find(principal.tenant_id, session_id)
        await audit.record(principal, _ACTION, [session_id])
        return recording

    async def open_for_operator(
        self, tenant_id: TenantId, session_id: SessionId, audit: OperatorAudit
    ) -> KeptRecording:
        """Return the same for the operator at the command line; without its audit entry nothing is read."""
        recording = await self._find(tenant_id, session_id)
        async with audit.changing(Actor.operator(tenant_id)) as unit:
            await unit.record(_ACTION, session_id, chunks=len(recording.chunks))
        return recording

    async def read(self, recording: KeptRecording) -> AsyncIterator[bytes]:
        """Yield the recording in small pieces, with one block in memory.

        Raises RecordingNotKept if its bytes are deleted meanwhile, because EkaScribe has taken them.
        """
        blocks = (
            self._whole(recording.session_id, recording.chunks[0])
            if recording.media_type != _ARCHIVE_TYPE
            else read_archive(
                recording.session_id,
                recording.chunks,
                lambda chunk: self._whole(recording.session_id, chunk),
            )
        )
        async for block in blocks:
            for start in range(0, len(block), _PIECE_BYTES):
                yield block[start : start + _PIECE_BYTES]

    async def _find(self, tenant_id: TenantId, session_id: SessionId) -> KeptRecording:
        chunks = await self._store.chunks(tenant_id, session_id)
        if not chunks:
            raise RecordingNotKept("ekabridge keeps no audio of this session")
        if len(chunks) == 1:
            (chunk,) = chunks
            extension = chunk.file_name.rpartition(".")[2]
            return KeptRecording(
                session_id=session_id,
                chunks=chunks,
                media_type=chunk.media_type,
                file_name=f"{session_id}.{extension}",
                size=chunk.size,
            )
        return KeptRecording(
            session_id=session_id,
            chunks=chunks,
            media_type=_ARCHIVE_TYPE,
            file_name=f"{session_id}.zip",
            size=archive_size(session_id, chunks),
        )

    async def _whole(self, session_id: SessionId, chunk: KeptChunk) -> AsyncIterator[bytes]:
        size = 0
        async for block in self._store.read(session_id, chunk.sequence):
            size += len(block)
            yield block
        if size != chunk.size:
            raise RecordingNotKept("the audio was deleted while it was being read")
