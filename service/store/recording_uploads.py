"""Recordings that come in pieces: each follows the others under a lease, and the last ends the session."""

from collections.abc import AsyncIterator

from service.domain.ids import UNFILTERED, Lease, SessionId, TemplateId, TenantId
from service.domain.recordings.uploads import UploadState
from service.store.audio_blocks import RECORDING_SEQUENCE, AudioBlockRows, in_blocks
from service.store.database import Database, LentConnection
from service.store.lifecycle_metrics import SETTLED
from service.store.queries import sql


class RecordingUploadRows:
    """The domain's UploadStore over PostgreSQL."""

    def __init__(self, database: Database, blocks: AudioBlockRows) -> None:
        self._database = database
        self._blocks = blocks

    async def state(self, tenant_id: TenantId, session_id: SessionId) -> UploadState | None:
        """Return how far an upload is; None if the tenant has no session that takes one."""
        row = await self._database.fetchrow(sql("recording_uploads.state"), tenant_id, session_id)
        if row is None:
            return None
        return UploadState(
            status=row["status"],
            is_open=row["is_open"] and row["status"] in {"created", "recording"} and not row["is_past"],
            is_erased=row["is_erased"],
            received=row["received"] if row["bytes"] is None else row["bytes"],
            length=row["length"] if row["bytes"] is None else row["bytes"],
        )

    async def restart(self, tenant_id: TenantId, session_id: SessionId, length: int | None) -> bool:
        """Begin an upload anew, without the bytes that it has; false if it is over."""
        async with self._database.transaction() as connection:
            if not await _locked(connection, tenant_id, session_id):
                return False
            await connection.execute(sql("recording_uploads.restart"), tenant_id, session_id, length)
            await self._blocks.discard(connection, session_id, RECORDING_SEQUENCE)
        return True

    async def claim(
        self,
        tenant_id: TenantId,
        session_id: SessionId,
        *,
        offset: int,
        length: int | None,
        lease: Lease,
        lease_seconds: float,
    ) -> bool:
        """Lease the upload for a piece; false if it is at another offset, over, or leased to another."""
        async with self._database.transaction() as connection:
            if not await _locked(connection, tenant_id, session_id):
                return False
            row = await connection.fetchrow(
                sql("recording_uploads.claim"), tenant_id, session_id, lease, lease_seconds, offset, length
            )
        return row is not None

    async def append(
        self,
        tenant_id: TenantId,
        session_id: SessionId,
        lease: Lease,
        pieces: AsyncIterator[bytes],
        *,
        lease_seconds: float,
        life_seconds: float,
        reconcile_seconds: float,
    ) -> int | None:
        """Store pieces, all of them or none, and end the session if the recording is whole.

        Returns the number of bytes that are here now; None if the lease was lost.
        """
        async with self._database.transaction() as connection:
            if not await _locked(connection, tenant_id, session_id):
                return None
            size, number = 0, await self._next_block(connection, session_id, lease, lease_seconds)
            if number is None:
                return None
            first = number
            async for block in in_blocks(pieces):
                await self._blocks.write_block(
                    connection, tenant_id, session_id, RECORDING_SEQUENCE, number, block
                )
                size, number = size + len(block), number + 1
            row = await connection.fetchrow(
                sql("recording_uploads.append"), session_id, lease, size, number - first, lease_seconds
            )
            if row is None:  # pragma: no cover - the row is locked since _next_block
                return None
            await connection.execute(sql("recording_uploads.record_audio"), session_id, life_seconds)
            received = int(row["received"])
            if received == row["length"]:
                await _end(connection, tenant_id, session_id, received, reconcile_seconds)
        return received

    async def _next_block(
        self, connection: LentConnection, session_id: SessionId, lease: Lease, lease_seconds: float
    ) -> int | None:
        row = await connection.fetchrow(
            sql("recording_uploads.append"), session_id, lease, 0, 0, lease_seconds
        )
        return None if row is None else int(row["blocks"])

    async def release(self, session_id: SessionId, lease: Lease) -> None:
        """Release the lease of a piece that is over."""
        await self._database.execute(sql("recording_uploads.release"), session_id, lease)

    async def cancel(self, tenant_id: TenantId, session_id: SessionId) -> bool:
        """Cancel the session of an upload and delete its bytes; false if it is over."""
        async with self._database.transaction() as connection:
            if not await _locked(connection, tenant_id, session_id):
                return False
            await connection.execute(sql("recording_uploads.cancel_session"), tenant_id, session_id)
            await connection.execute(sql("recording_uploads.delete"), tenant_id, session_id)
            await self._blocks.discard(connection, session_id, RECORDING_SEQUENCE)
        SETTLED.labels("cancelled").inc()
        return True

    async def delete_over(self) -> None:
        """Delete the uploads of sessions that are over, which nobody can continue."""
        # One at a time: a statement that deletes the gigabytes of several would run into its time-out.
        while await self._database.fetchrow(sql("recording_uploads.delete_over")) is not None:
            pass


async def _locked(connection: LentConnection, tenant_id: TenantId, session_id: SessionId) -> bool:
    """Lock the session; false if its upload is over."""
    row = await connection.fetchrow(sql("recording_uploads.lock_session"), tenant_id, session_id)
    return row is not None


async def _end(
    connection: LentConnection,
    tenant_id: TenantId,
    session_id: SessionId,
    size: int,
    reconcile_seconds: float,
) -> None:
    """End the session of a recording that is whole: a worker inspects and cuts it."""
    await connection.execute(sql("recording_uploads.delete"), tenant_id, session_id)
    await connection.execute(sql("recordings.insert"), session_id, tenant_id, size, None, None)
    row = await connection.fetchrow(sql("recordings.end_session"), session_id, tenant_id)
    templates = [TemplateId(name) for name in (row["templates"] if row else [])] or [UNFILTERED]
    await connection.execute(sql("results.schedule"), tenant_id, session_id, templates, reconcile_seconds)
