"""Holds the audio of a stream in PostgreSQL while the vendor does not take it: each piece is a held chunk.

If the vendor's side of a stream is away when the stream ends, all of its audio that is kept becomes such
chunks. They reach the vendor in a second session, which takes chunks instead of a stream.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Protocol

from msgspec import Struct

from service.domain.audio.models import AudioFormat
from service.domain.audio.uploads import chunk_file_name
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.streams.audio_log import AudioLog
from service.domain.streams.frames import WAV_HEAD_BYTES, join_samples, media_frame, wav_of
from service.domain.streams.models import HoldFull

# Earlier audio is sent again in frames of this size.
_FRAME_BYTES = 3_200
WAV = AudioFormat(media_type="audio/wav", extension="wav")


class HeldPiece(Struct, frozen=True, kw_only=True):
    """A piece of a stream's audio, as the chunk that it will be; implements the domain's Audio."""

    session_id: SessionId
    tenant_id: TenantId
    lease: Lease
    sequence: int
    file_name: str
    content_type: str
    sha256: str
    wav: bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.wav)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes."""
        yield self.wav


class EarlierAudio(Struct, frozen=True, kw_only=True):
    """Audio of a stream's earlier connections that is still held."""

    # The held chunks, which are WAV files of one sample rate.
    sequences: list[int]
    # So many bytes of their samples reached the vendor's stream.
    taken_bytes: int
    # Whether the pieces begin with the first audio of the session.
    is_whole: bool


class Interruption(Struct, frozen=True, kw_only=True):
    """A time in which the vendor's side of a stream was away; `resumed_seconds` is None until it ended."""

    number: int
    cause: str
    seconds: float
    held_frames: int
    replayed_bytes: int
    is_over: bool


class HeldStreamStore(Protocol):
    """Held audio of streams, and the times in which it was held."""

    async def read_earlier(self, session_id: SessionId, lease: Lease) -> EarlierAudio:
        """Return what is held of the session's earlier connections."""
        ...

    async def read_piece(self, session_id: SessionId, sequence: int) -> bytes:
        """Return a held piece, a WAV file."""
        ...

    async def hold_piece(self, piece: HeldPiece) -> bool:
        """Store a piece, in place of an earlier state of it; False if the stream's lease was lost."""
        ...

    async def has_room(self, tenant_id: TenantId, size: int) -> bool:
        """Return whether so many more bytes may be held for the tenant."""
        ...

    async def record_held(
        self, session_id: SessionId, lease: Lease, *, taken_bytes: int, is_whole: bool
    ) -> None:
        """Record how much of the held audio the vendor's stream took, and whether it is all of the audio."""
        ...

    async def drop_held(self, session_id: SessionId, lease: Lease) -> None:
        """Delete the held audio, because the vendor's stream took all of it."""
        ...

    async def record_interruption(
        self, session_id: SessionId, lease: Lease, interruption: Interruption
    ) -> None:
        """Record an interruption that has begun or is over."""
        ...


class StreamHold:
    """Writes the audio log of one connection to PostgreSQL, piece by piece."""

    def __init__(
        self, store: HeldStreamStore, session_id: SessionId, tenant_id: TenantId, lease: Lease
    ) -> None:
        self._store = store
        self._session_id, self._tenant_id, self._lease = session_id, tenant_id, lease
        self.first_sequence = 0
        self.rate = 0
        # The pieces that are stored, by where they begin, and where each ends.
        self._stored: dict[int, int] = {}
        # How many bytes of samples each of them has.
        self._sample_bytes: dict[int, int] = {}
        self._lock = asyncio.Lock()
        self._must_drop = False
        # Whether finished pieces are to be stored as they come.
        self.is_holding = False

    async def load_earlier(self, log: AudioLog, earlier: EarlierAudio) -> int:
        """Put the held audio of earlier connections at the beginning of the log.

        Return up to which position the vendor's stream took it.
        """
        taken_until = count = 0
        for sequence in earlier.sequences:
            begun = log.size
            samples = (await self._store.read_piece(self._session_id, sequence))[WAV_HEAD_BYTES:]
            for start in range(0, len(samples), _FRAME_BYTES):
                part = samples[start : start + _FRAME_BYTES]
                log.append_frame(media_frame(part) if log.has_texts else part)
                count += len(part)
                if count <= earlier.taken_bytes:
                    taken_until = log.size
            log.cut()
            self._sample_bytes[begun] = len(samples)
        if earlier.sequences:
            self.first_sequence = earlier.sequences[0]
            self._stored = dict(pairwise(log.cuts))
        return taken_until

    async def begin(self, log: AudioLog, taken_until: int) -> None:
        """Store what the vendor has not taken; the last piece, too, though it is unfinished.

        Raises HoldFull or StoreUnavailable, as the other methods do.
        """
        await self.hold(log, taken_until, with_unfinished=True)
        await self._record(log, taken_until, is_whole=False)
        self.is_holding = True

    async def finish(self, log: AudioLog, taken_until: int, *, is_whole: bool) -> None:
        """Store what the vendor lacks, and then what it has: a document of it all needs all of it."""
        # The client was told that this is accepted, so it needs no room any more.
        await self.hold(log, taken_until, with_unfinished=True, needs_room=False)
        try:
            await self.hold(log, log.start, newest_first=True)
        except HoldFull:
            is_whole = False
        await self._record(log, taken_until, is_whole=is_whole)

    async def hold(
        self,
        log: AudioLog,
        first: int,
        *,
        with_unfinished: bool = False,
        needs_room: bool = True,
        newest_first: bool = False,
    ) -> None:
        """Store the finished pieces from a position on, and the unfinished last one if wanted.

        `newest_first`: if there is no room for all, the stored pieces still follow one another without a gap.
        """
        async with self._lock:
            await self._drop_rest()
            ends = [*log.cuts[1:], log.size]
            pieces = list(enumerate(zip(log.cuts, ends, strict=True)))
            for index, (start, end) in reversed(pieces) if newest_first else pieces:
                is_finished = index < len(log.cuts) - 1
                is_wanted = end > first and (is_finished or with_unfinished)
                if log.is_closed:  # the vendor has it all now
                    return
                if is_wanted and end > self._stored.get(start, start):
                    await self._hold_piece(log, index, start, end, needs_room=needs_room)

    async def _record(self, log: AudioLog, taken_until: int, *, is_whole: bool) -> None:
        """Record how much of the held audio the vendor's stream took."""
        taken_bytes = 0
        for start, end in self._stored.items():
            if end <= taken_until:
                taken_bytes += self._sample_bytes[start]
            elif start < taken_until:
                taken_bytes += len(samples_between(log, start, taken_until))
        await self._store.record_held(
            self._session_id, self._lease, taken_bytes=taken_bytes, is_whole=is_whole
        )

    async def drop(self) -> None:
        """Delete what is stored; if the database is away, before the next piece is stored."""
        self.is_holding = False
        async with self._lock:
            self._must_drop |= bool(self._stored)
            self._stored, self._sample_bytes = {}, {}
            await self._drop_rest()

    async def _drop_rest(self) -> None:
        if self._must_drop:
            await self._store.drop_held(self._session_id, self._lease)
            self._must_drop = False

    async def record_interruption(self, interruption: Interruption) -> None:
        """Record an interruption for the timeline."""
        await self._store.record_interruption(self._session_id, self._lease, interruption)

    async def _hold_piece(self, log: AudioLog, index: int, start: int, end: int, *, needs_room: bool) -> None:
        if needs_room and not await self._store.has_room(
            self._tenant_id, end - self._stored.get(start, start)
        ):
            raise HoldFull("no more audio of streams may be held")
        sequence = self.first_sequence + index
        samples = samples_between(log, start, end)
        wav = wav_of(samples, self.rate)
        piece = HeldPiece(
            session_id=self._session_id,
            tenant_id=self._tenant_id,
            lease=self._lease,
            sequence=sequence,
            file_name=chunk_file_name(sequence, WAV),
            content_type=WAV.media_type,
            sha256=hashlib.sha256(wav).hexdigest(),
            wav=wav,
        )
        if await self._store.hold_piece(piece):
            self._stored[start], self._sample_bytes[start] = end, len(samples)


def samples_between(log: AudioLog, start: int, end: int) -> bytes:
    """Return the PCM between two positions of a log."""
    if not log.has_texts:
        return log.read(start, end)
    frames = []
    while start < end:
        frame, start = log.next_frame(start)
        frames.append(frame)
    return join_samples(frames)
