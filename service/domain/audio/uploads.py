"""Accepts chunks of audio: reserves the sequence, sends the bytes to the vendor, records the chunk.

If the vendor does not take the bytes now, ekabridge holds them in PostgreSQL and hands them over later
(service/domain/audio/handover.py). Clients may repeat an upload of the same bytes as often as they like.
"""

import asyncio
from typing import Protocol
from uuid import uuid4

import structlog

from schemas.audio import ChunkState, ChunkStored
from schemas.sessions import Upload
from service.domain.api_keys.models import Principal
from service.domain.audio.models import Audio, AudioFormat, ChunkClaim, ChunkPlan
from service.domain.errors import (
    ENDED_AT_VENDOR,
    AudioEmpty,
    ChunkConflict,
    NotFound,
    SessionEnded,
    SessionErased,
    SessionExpired,
    SessionNotReady,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
    VendorUnreachable,
    WrongUpload,
)
from service.domain.ids import Lease, SessionId, TenantId, VendorSessionId
from service.domain.sessions.ports import SessionStore
from service.domain.vendor import Vendor
from service.domain.vendor_calls import check_still_wanted


class AudioStore(Protocol):
    """Rows of chunks."""

    async def claim(self, chunk: ChunkPlan) -> ChunkClaim | None:
        """Reserve the chunk's sequence; None when the tenant has no such session."""
        ...

    async def record(self, chunk: ChunkPlan, vendor_id: VendorSessionId) -> bool:
        """Record that the vendor has the bytes in its session of this id.

        False when the session accepts no more audio, or has another id at the vendor by now.
        """
        ...

    async def release(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Free the sequence after the vendor refused the bytes."""
        ...

    async def expire_lease(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """End the lease but keep the sequence reserved: the vendor may have the bytes."""
        ...


class AudioHold(Protocol):
    """Keeps chunks that the vendor does not take now, or that are kept until the session's ending."""

    async def hold(self, chunk: ChunkPlan, audio: Audio, *, due_seconds: float) -> bool:
        """Store the bytes, encrypted, and make their handover due; False if the lease was lost.

        Raises SessionEnded if the session accepts no more audio.
        """
        ...

    async def record_kept(self, chunk: ChunkPlan, vendor_id: VendorSessionId, audio: Audio) -> bool:
        """Record that the vendor has the bytes, and keep them encrypted; False as AudioStore.record."""
        ...

    async def has_room(self, tenant_id: TenantId, size: int, *, is_confirmed: bool = False) -> bool:
        """Return whether so many more bytes may be held for the tenant.

        Audio that the vendor has confirmed may use half of the room, so that an outage finds the other half.
        """
        ...


log = structlog.get_logger()

_UPLOAD_DEADLINE_SECONDS = 50.0
_LEASE_SECONDS = 60.0
_HANDOVER_AFTER_SECONDS = 1.0
OPEN_STATUSES = frozenset({"created", "recording"})
_WRONG_UPLOAD = {
    "stream": "this session was created with upload: stream; it takes no chunks",
    "chunked": "this session takes chunks, no stream",
}


def chunk_file_name(sequence: int, audio_format: AudioFormat) -> str:
    """Return a chunk's name in the vendor's format, `<base>_<sequence>.<ext>` (docs/vendor.md#upload).

    All chunks have the same base. The vendor stores chunks by number alone, so a chunk with another base
    would overwrite this one (docs/vendor.md#stored-by-number).
    """
    return f"audio_{sequence}.{audio_format.extension}"


class AudioUploads:
    """Accepts chunks of a session; answers only after the vendor or PostgreSQL has a chunk."""

    def __init__(
        self, *, store: AudioStore, held_audio: AudioHold, sessions: SessionStore, vendor: Vendor
    ) -> None:
        self._store = store
        self._held_audio = held_audio
        self._sessions = sessions
        self._vendor = vendor

    async def accept_chunk(
        self,
        principal: Principal,
        session_id: SessionId,
        sequence: int,
        audio_format: AudioFormat,
        audio: Audio,
    ) -> ChunkStored:
        """Store or hold one chunk; a repeat of the same bytes gets an answer without a call to the vendor.

        Raises NotFound, SessionEnded, SessionExpired, WrongUpload, ChunkConflict, AudioEmpty, VendorRefused,
        or another VendorError if the vendor is away and no more audio may be held.
        """
        if audio.size == 0:
            raise AudioEmpty("the chunk has no bytes")
        chunk = ChunkPlan(
            tenant_id=principal.tenant_id,
            session_id=session_id,
            sequence=sequence,
            sha256=audio.sha256,
            size=audio.size,
            content_type=audio_format.media_type,
            file_name=chunk_file_name(sequence, audio_format),
            lease=Lease(uuid4()),
            lease_seconds=_LEASE_SECONDS,
        )
        claim = await self._claim(chunk)
        if claim.lease is None:
            return _repeated(claim, chunk)
        if not claim.is_held:
            try:
                await self._send(claim, chunk, audio_format, audio)
            except VendorUnreachable as error:
                return await self._hold(chunk, audio, error)
            if await self._record(claim, chunk, audio):
                return _stored(chunk, chunk.file_name, "stored")
            # The session was ended meanwhile, or made again at the vendor, where it lacks this chunk.
            claim = await self._claim(chunk)
            if claim.lease is None:
                return _repeated(claim, chunk)
        # The vendor was away a moment ago, and the session's other audio waits for it, too.
        return await self._hold(chunk, audio, VendorUnavailable("EkaScribe is away", sent=False))

    async def _record(self, claim: ChunkClaim, chunk: ChunkPlan, audio: Audio) -> bool:
        """Record a chunk that the vendor has, and keep its bytes if the session keeps confirmed audio."""
        if claim.keeps_audio:
            if await self._held_audio.has_room(chunk.tenant_id, chunk.size, is_confirmed=True):
                return await self._held_audio.record_kept(chunk, claim.vendor_id, audio)
            log.warning("audio_not_kept", session_id=chunk.session_id, sequence=chunk.sequence)
        return await self._store.record(chunk, claim.vendor_id)

    async def _hold(self, chunk: ChunkPlan, audio: Audio, error: VendorUnreachable) -> ChunkStored:
        """Hold a chunk that the vendor did not take; raise `error` if there is no room."""
        if not await self._held_audio.has_room(chunk.tenant_id, chunk.size):
            await self._store.expire_lease(chunk.session_id, chunk.sequence, chunk.lease)
            raise error
        if not await self._held_audio.hold(chunk, audio, due_seconds=_HANDOVER_AFTER_SECONDS):
            # Another upload of this sequence overtook this one, after the lease had run out.
            return _repeated(await self._claim(chunk), chunk)
        log.info("audio_held", session_id=chunk.session_id, sequence=chunk.sequence, reason=error.code)
        return _stored(chunk, chunk.file_name, "held")

    async def _claim(self, chunk: ChunkPlan) -> ChunkClaim:
        # A statement does not see changes that a concurrent upload made after its snapshot: a new row, or the
        # same bytes, stored meanwhile. The next statement sees them, so this tries again.
        claim = None
        for _ in range(3):
            claim = await self._store.claim(chunk)
            if claim is None:
                raise NotFound("no such session")
            overtaken = claim.stored_sha256 == chunk.sha256 and claim.stored_file_name == chunk.file_name
            if claim.lease is not None or claim.is_stored or (claim.stored_sha256 and not overtaken):
                break
            _check_accepts_chunk(claim)
        if claim is None:  # pragma: no cover - the loop ran
            raise NotFound("no such session")
        return claim

    async def _send(
        self, claim: ChunkClaim, chunk: ChunkPlan, audio_format: AudioFormat, audio: Audio
    ) -> None:
        claimed = (chunk.session_id, chunk.sequence, chunk.lease)
        try:
            async with asyncio.timeout(_UPLOAD_DEADLINE_SECONDS):
                await self._vendor.upload_audio(
                    claim.account,
                    claim.vendor_id,
                    chunk.file_name,
                    audio_format,
                    audio,
                    before_repeat=lambda: check_still_wanted(self._sessions, chunk.session_id),
                )
        except SessionEnded:
            await self._store.expire_lease(*claimed)
            raise
        except VendorRefused as refused:
            await self._store.release(*claimed)
            if refused.vendor_code in ENDED_AT_VENDOR:
                raise SessionEnded("EkaScribe takes no more audio for this session") from refused
            raise
        except TimeoutError:
            raise VendorTimeout("EkaScribe did not take the chunk in time", sent=True) from None
        except asyncio.CancelledError:
            await asyncio.shield(self._store.expire_lease(*claimed))
            raise


def check_accepts_audio(
    *, wanted: Upload, upload: Upload, status: str, is_erased: bool, is_created: bool, is_past: bool
) -> None:
    """Refuse audio for a session whose upload type is not `wanted`, or that accepts no audio any more.

    Raises SessionErased, WrongUpload, SessionNotReady, SessionExpired or SessionEnded.
    """
    if is_erased:
        raise SessionErased("the session was erased")
    if upload != wanted:
        raise WrongUpload(_WRONG_UPLOAD[upload])
    if not is_created:
        raise SessionNotReady("EkaScribe has not confirmed this session yet")
    if status == "expired" or (is_past and status in OPEN_STATUSES):
        raise SessionExpired("the session expired before it was ended")
    if status not in OPEN_STATUSES:
        raise SessionEnded("the session takes no more audio")


def _check_accepts_chunk(claim: ChunkClaim) -> None:
    check_accepts_audio(
        wanted="chunked",
        upload=claim.upload,
        status=claim.session_status,
        is_erased=claim.is_erased,
        is_created=claim.is_created,
        is_past=claim.is_past,
    )


def _repeated(claim: ChunkClaim, chunk: ChunkPlan) -> ChunkStored:
    _check_accepts_chunk(claim)
    same = claim.stored_sha256 == chunk.sha256
    if claim.state is not None and same and claim.stored_file_name is not None:
        return _stored(chunk, claim.stored_file_name, claim.state)
    if claim.is_stored:
        raise ChunkConflict("other bytes are already stored under this sequence")
    if claim.stored_file_name != chunk.file_name:
        raise ChunkConflict(
            f"this sequence was begun as {claim.stored_file_name}; send it again in the same format"
        )
    raise ChunkConflict("other bytes are being uploaded under this sequence at this moment")


def _stored(chunk: ChunkPlan, file_name: str, state: ChunkState) -> ChunkStored:
    return ChunkStored(
        sequence=chunk.sequence, bytes=chunk.size, sha256=chunk.sha256, file_name=file_name, state=state
    )
