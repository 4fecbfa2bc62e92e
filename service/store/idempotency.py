"""Idempotency keys of create calls: the row that makes one session of all repeats of a call."""

from service.domain.ids import Lease, SessionId, TenantId
from service.domain.models import SessionPlan
from service.domain.sessions.creation import Reservation
from service.store.database import Database
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql
from service.store.sessions import SessionRows

# A repeat is recognised for a week: longer than any client's queue of unsent calls should live.
IDEMPOTENCY_KEPT_SECONDS = 7 * 86_400.0


def answer_aad(session_id: str) -> str:
    """Return the AAD that binds the kept answer of a create call to its session."""
    return f"idempotency.answer:{session_id}"


class IdempotencyRows:
    """Idempotency keys of create calls; the key itself and the body are kept as keyed hashes only."""

    def __init__(self, database: Database, keyring: Keyring, hasher: Hasher, sessions: SessionRows) -> None:
        self._database = database
        self._keyring = keyring
        self._hasher = hasher
        self._sessions = sessions

    async def reserve(
        self,
        key: str,
        request: bytes,
        plan: SessionPlan,
        lease: Lease,
        *,
        lease_seconds: float,
        life_seconds: float,
    ) -> Reservation:
        """Reserve the key and insert the session together, or say what the key stands for already."""
        tenant_id = plan.tenant_id
        key_hash = await self._key_hash(tenant_id, key)
        request_hash = await self._hasher.hash("idempotent_request", request)
        session = await self._sessions.insert_arguments(
            plan, lease, lease_seconds=lease_seconds, life_seconds=life_seconds
        )
        async with self._database.transaction() as connection:
            fresh = await connection.fetchrow(
                sql("idempotency.begin"),
                tenant_id,
                key_hash,
                request_hash,
                plan.id,
                lease,
                lease_seconds,
            )
            if fresh is not None:
                await connection.execute(sql("sessions.insert"), *session)
                return Reservation(kind="new", session_id=plan.id)
            known = await connection.fetchrow(sql("idempotency.lock"), tenant_id, key_hash)
            if known is None:
                return Reservation(kind="running", session_id=plan.id)
            found = SessionId(known["session_id"])
            if known["is_erased"]:
                return Reservation(kind="erased", session_id=found)
            if known["request_hash"] != request_hash:
                return Reservation(kind="reused", session_id=found)
            if known["answer_sealed"] is not None:
                answer = self._keyring.open(known["answer_sealed"], answer_aad(found))
                return Reservation(kind="replayed", session_id=found, answer=answer)
            if not known["lease_is_over"]:
                return Reservation(kind="running", session_id=found)
            # A session that the vendor refused, or never had, is not brought back: the call starts anew.
            is_dead = known["session_status"] in {None, "failed"}
            session_id = plan.id if is_dead else found
            await connection.execute(
                sql("idempotency.resume"), tenant_id, key_hash, session_id, lease, lease_seconds
            )
            if is_dead:
                await connection.execute(sql("sessions.insert"), *session)
                return Reservation(kind="new", session_id=session_id)
            is_owed = known["session_owed"] == "create"
            return Reservation(kind="resumed" if is_owed else "established", session_id=session_id)

    async def finish(self, tenant_id: TenantId, key: str, session_id: SessionId, answer: bytes) -> None:
        """Keep the answer that every repeat will get."""
        await self._database.execute(
            sql("idempotency.finish"),
            tenant_id,
            await self._key_hash(tenant_id, key),
            self._keyring.seal(answer, answer_aad(session_id)),
        )

    async def abandon(self, tenant_id: TenantId, key: str, lease: Lease) -> None:
        """The call failed: the same key may try again at once."""
        await self._database.execute(
            sql("idempotency.abandon"), tenant_id, await self._key_hash(tenant_id, key), lease
        )

    async def forget_old(self) -> None:
        """Delete keys beyond the time for which a repeat is recognised."""
        await self._database.execute(sql("idempotency.forget"), IDEMPOTENCY_KEPT_SECONDS)

    async def _key_hash(self, tenant_id: TenantId, key: str) -> bytes:
        return await self._hasher.hash("idempotency_key", f"{tenant_id}\0{key}".encode())
