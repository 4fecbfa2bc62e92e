"""Live streams: the lease of the connection that holds each, its progress, and how it ended."""

import base64
import hmac

from service.domain.ids import Account, Lease, SessionId, VendorSessionId
from service.domain.streams.models import StreamEnd, StreamHeartbeat, StreamSession, StreamState
from service.store.database import Database
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql
from service.store.sessions import upload_url_aad

_PURPOSE = "stream_capability"


class StreamRows:
    """The domain's StreamStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring, hasher: Hasher) -> None:
        self._database = database
        self._keyring = keyring
        self._hasher = hasher

    async def capability(self, session_id: str) -> str:
        """Return the secret that a streaming client must show. A keyed hash derives it: no row stores it."""
        hashed = await self._hasher.hash(_PURPOSE, session_id.encode())
        return base64.urlsafe_b64encode(hashed).decode().rstrip("=")

    async def find(self, session_id: SessionId, capability: str) -> StreamSession | None:
        """Return the session of a capability; None alike for a wrong capability and an unknown session."""
        expected = await self.capability(session_id)
        if not hmac.compare_digest(expected.encode(), capability.encode()):
            return None
        row = await self._database.fetchrow(sql("streams.find"), session_id)
        if row is None:
            return None
        encrypted = row["upload_url_sealed"]
        return StreamSession(
            id=session_id,
            vendor_id=VendorSessionId(row["vendor_id"]),
            tenant_id=row["tenant_id"],
            account=Account(row["account"]),
            status=row["status"],
            upload=row["upload"],
            is_created=row["owed"] != "create" or row["is_held"],
            is_erased=row["is_erased"],
            keeps_audio=row["keeps_audio"],
            is_past=row["is_past"],
            vendor_url=self._keyring.decrypt(encrypted, upload_url_aad(session_id)).decode()
            if encrypted
            else None,
        )

    async def claim(self, session_id: SessionId, lease: Lease, lease_seconds: float) -> bool:
        """Lease the stream; false if another connection holds it or the session accepts no more audio."""
        row = await self._database.fetchrow(sql("streams.claim"), session_id, lease, lease_seconds)
        return row is not None

    async def ask_to_yield(self, session_id: SessionId, silent_seconds: float) -> bool:
        """Ask the holder to release the stream; false if its client sent anything within `silent_seconds`."""
        row = await self._database.fetchrow(sql("streams.ask_to_yield"), session_id, silent_seconds)
        return row is not None

    async def announce_end(self, session_id: SessionId, lease: Lease) -> None:
        """Mark that this connection is about to end."""
        await self._database.execute(sql("streams.let_go"), session_id, lease)

    async def read_states(self, session_ids: list[SessionId]) -> list[StreamState]:
        """Return the state of these streams and their sessions, in one statement for a whole process."""
        rows = await self._database.fetch(sql("streams.look"), session_ids)
        return [
            StreamState(
                session_id=SessionId(row["session_id"]),
                lease=row["lease"],
                is_yielding=row["is_yielding"],
                status=row["status"],
                is_erased=row["is_erased"],
            )
            for row in rows
        ]

    async def renew_leases(self, heartbeats: list[StreamHeartbeat], lease_seconds: float) -> None:
        """Renew the leases of these streams and record their progress."""
        await self._database.execute(
            sql("streams.beat"),
            [heartbeat.session_id for heartbeat in heartbeats],
            [heartbeat.lease for heartbeat in heartbeats],
            [heartbeat.was_active for heartbeat in heartbeats],
            [heartbeat.frames for heartbeat in heartbeats],
            [heartbeat.bytes for heartbeat in heartbeats],
            lease_seconds,
        )

    async def release(self, session_id: SessionId, lease: Lease, end: StreamEnd) -> None:
        """Record the end of a connection and free the stream."""
        await self._database.execute(
            sql("streams.release"), session_id, lease, end.cause, end.code, end.frames, end.bytes
        )

    async def is_open(self, session_id: SessionId) -> bool:
        """Return whether a connection holds the stream."""
        return await self._database.fetchrow(sql("streams.is_open"), session_id) is not None
