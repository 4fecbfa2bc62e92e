"""What a stream needs to hold its audio, in memory."""

from __future__ import annotations

from service.domain.errors import StoreUnavailable
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.streams.frames import WAV_HEAD_BYTES
from service.domain.streams.holding import EarlierAudio, HeldPiece, Interruption


class SpoolInMemory:
    """Bytes that count as being on disk."""

    def __init__(self, max_bytes: int = 1 << 40) -> None:
        self.data = b""
        self.max_bytes = max_bytes

    def append(self, data: bytes) -> bool:
        if len(self.data) + len(data) > self.max_bytes:
            return False
        self.data += data
        return True

    def read(self, start: int, end: int) -> bytes:
        return self.data[start:end]

    def clear(self) -> None:
        self.data = b""


class HeldInMemory:
    """The domain's HeldStreamStore for one session."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}
        self.earlier = EarlierAudio(sequences=[], taken_bytes=0, is_whole=True)
        self.recorded: tuple[int, bool] | None = None
        self.interruptions: list[Interruption] = []
        self.room = 1 << 40
        self.is_away = False

    @property
    def samples(self) -> bytes:
        """The held audio, in order."""
        return b"".join(self.pieces[sequence][WAV_HEAD_BYTES:] for sequence in sorted(self.pieces))

    async def read_earlier(self, session_id: SessionId, lease: Lease) -> EarlierAudio:
        return self.earlier

    async def read_piece(self, session_id: SessionId, sequence: int) -> bytes:
        return self.pieces[sequence]

    async def hold_piece(self, piece: HeldPiece) -> bool:
        self._check()
        self.pieces[piece.sequence] = piece.wav
        return True

    async def has_room(self, tenant_id: TenantId, size: int) -> bool:
        self._check()
        return sum(map(len, self.pieces.values())) + size <= self.room

    async def record_held(
        self, session_id: SessionId, lease: Lease, *, taken_bytes: int, is_whole: bool
    ) -> None:
        self._check()
        self.recorded = (taken_bytes, is_whole)

    async def drop_held(self, session_id: SessionId, lease: Lease) -> None:
        self._check()
        self.pieces = {}

    async def record_interruption(
        self, session_id: SessionId, lease: Lease, interruption: Interruption
    ) -> None:
        self._check()
        self.interruptions.append(interruption)

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
