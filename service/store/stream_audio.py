"""Held audio of streams, as held chunks; the times in which it was held."""

from service.domain.ids import Lease, SessionId, TenantId, VendorSessionId
from service.domain.streams.holding import EarlierAudio, HeldPiece, Interruption
from service.domain.streams.late_replay import HeldPart
from service.store.audio_blocks import AudioBlockRows
from service.store.database import Database
from service.store.encryption import Keyring
from service.store.held_audio import HeldAudioRows
from service.store.lifecycle_metrics import STREAM_INTERRUPTIONS
from service.store.queries import sql
from service.store.sessions import upload_url_aad


class StreamAudioRows:
    """The domain's HeldStreamStore and HeldPartStore over PostgreSQL."""

    def __init__(
        self, database: Database, keyring: Keyring, blocks: AudioBlockRows, held_audio: HeldAudioRows
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._blocks = blocks
        self._held_audio = held_audio

    async def read_earlier(self, session_id: SessionId, lease: Lease) -> EarlierAudio:
        """Return what is held of the session's earlier connections."""
        row = await self._database.fetchrow(sql("stream_audio.earlier"), session_id, lease)
        if row is None or row["sequences"] is None:
            return EarlierAudio(sequences=[], taken_bytes=0, is_whole=row is None or not row["has_earlier"])
        return EarlierAudio(
            sequences=row["sequences"], taken_bytes=row["held_taken_bytes"], is_whole=row["held_is_whole"]
        )

    async def read_part(self, session_id: SessionId, lease: Lease) -> HeldPart | None:
        """Return what is held of an ended stream; None if nothing is, or the lease was lost."""
        row = await self._database.fetchrow(sql("stream_audio.part"), session_id, lease)
        if row is None:
            return None
        encrypted = row["upload_url_sealed"]
        return HeldPart(
            vendor_id=VendorSessionId(row["vendor_id"]),
            vendor_url=self._keyring.decrypt(encrypted, upload_url_aad(session_id)).decode()
            if encrypted
            else None,
            sequences=row["sequences"],
            taken_bytes=row["held_taken_bytes"],
            is_whole=row["held_is_whole"],
        )

    async def record_taken(self, session_id: SessionId, lease: Lease, taken_bytes: int) -> None:
        """Record how much of the held audio of an ended stream the vendor's stream took."""
        await self._database.execute(sql("stream_audio.record_taken"), session_id, lease, taken_bytes)

    async def drop_part(self, session_id: SessionId, lease: Lease) -> None:
        """Delete the held audio of an ended stream."""
        await self._database.execute(sql("stream_audio.drop_part"), session_id, lease)

    async def read_piece(self, session_id: SessionId, sequence: int) -> bytes:
        """Return a held piece."""
        return b"".join([block async for block in self._blocks.read(session_id, sequence)])

    async def has_room(self, tenant_id: TenantId, size: int) -> bool:
        """Return whether so many more bytes may be held."""
        return await self._held_audio.has_room(tenant_id, size)

    async def hold_piece(self, piece: HeldPiece) -> bool:
        """Store a piece, encrypted, in place of an earlier state of it; false if the lease was lost."""
        async with self._database.transaction() as connection:
            if await connection.fetchrow(sql("stream_audio.lock"), piece.session_id, piece.lease) is None:
                return False
            held = await connection.fetchrow(
                sql("stream_audio.hold_piece"),
                piece.session_id,
                piece.sequence,
                piece.tenant_id,
                bytes.fromhex(piece.sha256),
                piece.size,
                piece.content_type,
                piece.file_name,
            )
            if held is None:
                return False
            # Also of a session that keeps its audio: these are the piece's bytes so far.
            await self._blocks.discard(connection, piece.session_id, piece.sequence)
            await self._blocks.write(connection, piece.tenant_id, piece.session_id, piece.sequence, piece)
        return True

    async def record_held(
        self, session_id: SessionId, lease: Lease, *, taken_bytes: int, is_whole: bool
    ) -> None:
        """Record how much of the held audio the vendor's stream took, and whether it is all of the audio."""
        await self._database.execute(
            sql("stream_audio.record_held"), session_id, lease, taken_bytes, is_whole
        )

    async def drop_held(self, session_id: SessionId, lease: Lease) -> None:
        """Delete the held audio."""
        await self._database.execute(sql("stream_audio.drop_held"), session_id, lease)

    async def record_interruption(
        self, session_id: SessionId, lease: Lease, interruption: Interruption
    ) -> None:
        """Record an interruption that has begun or is over."""
        await self._database.execute(
            sql("stream_audio.record_interruption"),
            session_id,
            lease,
            interruption.number,
            interruption.cause,
            interruption.seconds,
            interruption.held_frames,
            interruption.replayed_bytes,
            interruption.is_over,
        )
        STREAM_INTERRUPTIONS.labels("resumed" if interruption.is_over else "held").inc()
