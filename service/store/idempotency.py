"""Idempotency-Keys: all repeats of a call with one key make one session, destination or document."""

from msgspec import Struct

from service.domain.idempotency import KeyedCall, Reservation, Route
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.sessions.models import SessionPlan
from service.store.database import Database, LentConnection
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql
from service.store.sessions import SessionRows
from service.store.tolerant_decryption import RowDecryptor

# A repeat is recognised for a week: longer than any client's queue of unsent calls should live.
IDEMPOTENCY_KEPT_SECONDS = 7 * 86_400.0
# Keys of this route are hashed without its name since the first version, which knew no other route.
_FIRST_ROUTE = "createSession"


def answer_aad(object_id: str) -> str:
    """Return the AAD that binds the stored answer of a call to its session or destination."""
    return f"idempotency.answer:{object_id}"


class HashedCall(Struct, frozen=True, kw_only=True):
    """A call with an Idempotency-Key, with keyed hashes of its key and request."""

    tenant_id: TenantId
    route: Route
    key_hash: bytes
    request_hash: bytes


class IdempotencyKeys:
    """The statements on the keys' rows, each in a transaction that the caller has open."""

    def __init__(self, keyring: Keyring, hasher: Hasher) -> None:
        self._keyring = keyring
        self._hasher = hasher

    async def load(self) -> None:
        """Load the hasher's secret before a transaction begins."""
        await self._hasher.load()

    async def hashed(self, call: KeyedCall) -> HashedCall:
        """Hash a call's key and request. The route is part of the hash, so routes share no keys."""
        route = "" if call.route == _FIRST_ROUTE else f"{call.route}\0"
        return HashedCall(
            tenant_id=call.tenant_id,
            route=call.route,
            key_hash=await self._hasher.hash(
                "idempotency_key", f"{call.tenant_id}\0{route}{call.key}".encode()
            ),
            request_hash=await self._hasher.hash("idempotent_request", call.request),
        )

    async def reserve(
        self,
        connection: LentConnection,
        call: HashedCall,
        object_id: str,
        lease: Lease,
        lease_seconds: float,
    ) -> Reservation:
        """Reserve a key for a new session or destination, or return the earlier call with that key.

        After `resumed` the key's row is locked, and the caller must resume it.
        """
        fresh = await connection.fetchrow(
            sql("idempotency.begin"),
            call.tenant_id,
            call.key_hash,
            call.request_hash,
            object_id,
            lease,
            lease_seconds,
            call.route,
        )
        if fresh is not None:
            return Reservation(kind="new", object_id=object_id)
        # The row can only be gone because it was deleted as too old between the two statements.
        return await self.find(connection, call) or Reservation(kind="running", object_id=object_id)

    async def find(self, connection: LentConnection, call: HashedCall) -> Reservation | None:
        """Return the earlier call with a key, and lock its row; None if the key is new."""
        known = await connection.fetchrow(sql("idempotency.lock"), call.tenant_id, call.key_hash)
        if known is None:
            return None
        found = known["session_id"]
        if known["is_erased"]:
            return Reservation(kind="erased", object_id=found)
        if known["request_hash"] != call.request_hash:
            return Reservation(kind="reused", object_id=found)
        if known["is_answered"]:
            answer = await self._answer(connection, found, known["answer_sealed"])
            return Reservation(kind="replayed", object_id=found, answer=answer)
        if not known["lease_is_over"]:
            return Reservation(kind="running", object_id=found)
        return Reservation(kind="resumed", object_id=found, since=known["created_at"])

    async def _answer(
        self, connection: LentConnection, object_id: str, encrypted: bytes | None
    ) -> bytes | None:
        """Decrypt a stored answer; None if there is none, or if nobody can decrypt it any more."""
        if encrypted is None:
            return None
        shown = RowDecryptor(connection, "idempotency_keys", object_id)
        return await shown.value(
            "answer_sealed", lambda: self._keyring.decrypt(encrypted, answer_aad(object_id)), None
        )

    async def resume(
        self,
        connection: LentConnection,
        call: HashedCall,
        object_id: str,
        lease: Lease,
        lease_seconds: float,
    ) -> None:
        """Start a call again after its first try failed."""
        await connection.execute(
            sql("idempotency.resume"), call.tenant_id, call.key_hash, object_id, lease, lease_seconds
        )

    async def finish(
        self, connection: LentConnection, call: HashedCall, object_id: str, answer: bytes
    ) -> None:
        """Store the answer for repeats of the call, encrypted."""
        encrypted = self._keyring.encrypt(answer, answer_aad(object_id))
        await connection.execute(sql("idempotency.finish"), call.tenant_id, call.key_hash, encrypted)


class IdempotencyRows:
    """The domain's IdempotencyStore over PostgreSQL."""

    def __init__(self, database: Database, keys: IdempotencyKeys, sessions: SessionRows) -> None:
        self._database = database
        self._keys = keys
        self._sessions = sessions

    async def reserve_session(
        self,
        call: KeyedCall,
        plan: SessionPlan,
        lease: Lease,
        *,
        lease_seconds: float,
        life_seconds: float,
    ) -> Reservation:
        """Reserve the key and insert the session together, or return the earlier call with the key."""
        hashed = await self._keys.hashed(call)
        session = await self._sessions.insert_arguments(
            plan, lease, lease_seconds=lease_seconds, life_seconds=life_seconds
        )
        async with self._database.transaction() as connection:
            reserved = await self._keys.reserve(connection, hashed, plan.id, lease, lease_seconds)
            if reserved.kind == "new":
                await connection.execute(sql("sessions.insert"), *session)
            if reserved.kind != "resumed":
                return reserved
            state = await connection.fetchrow(
                sql("idempotency.session_state"), call.tenant_id, reserved.object_id
            )
            # A session that the vendor refused or never had is dead: the call makes a new one.
            is_dead = state is None or state["status"] == "failed"
            session_id = plan.id if is_dead else SessionId(reserved.object_id)
            await self._keys.resume(connection, hashed, session_id, lease, lease_seconds)
            if is_dead:
                await connection.execute(sql("sessions.insert"), *session)
                return Reservation(kind="new", object_id=session_id)
            is_pending = state is not None and state["owed"] == "create"
            return Reservation(kind="resumed" if is_pending else "established", object_id=session_id)

    async def reserve(
        self, call: KeyedCall, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> Reservation:
        """Reserve the key for a call about a session, or return the earlier call with the key."""
        hashed = await self._keys.hashed(call)
        async with self._database.transaction() as connection:
            reserved = await self._keys.reserve(connection, hashed, session_id, lease, lease_seconds)
            if reserved.kind == "resumed":
                await self._keys.resume(connection, hashed, session_id, lease, lease_seconds)
            return reserved

    async def finish(self, call: KeyedCall, session_id: SessionId, answer: bytes) -> None:
        """Store the answer for every repeat."""
        hashed = await self._keys.hashed(call)
        async with self._database.connection() as connection:
            await self._keys.finish(connection, hashed, session_id, answer)

    async def abandon(self, call: KeyedCall, lease: Lease) -> None:
        """End the lease of a call that failed: the same key may try again at once."""
        hashed = await self._keys.hashed(call)
        await self._database.execute(sql("idempotency.abandon"), call.tenant_id, hashed.key_hash, lease)

    async def forget_old(self) -> None:
        """Delete keys that are too old to recognise a repeat."""
        await self._database.execute(sql("idempotency.forget"), IDEMPOTENCY_KEPT_SECONDS)
