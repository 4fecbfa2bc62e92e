"""Rows by which replicas agree: idempotency keys, vendor tokens, leases, and received webhooks."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from asyncpg import PostgresError

from service.concurrency.batching import Gathered
from service.domain.errors import BridgeError, StoreUnavailable
from service.domain.ids import Account, Lease, SessionId, TenantId
from service.domain.models import Received, SessionPlan, TokenState
from service.domain.sessions.creation import Reservation
from service.store.database import Database
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql
from service.store.sessions import SessionRows

# A repeat is recognised for a week: longer than any client's queue of unsent calls should live.
IDEMPOTENCY_KEPT_SECONDS = 7 * 86_400.0


def answer_place(session_id: str) -> str:
    """Name the place for which the kept answer of a create call is sealed."""
    return f"idempotency.answer:{session_id}"


def tokens_place(account: str) -> str:
    """Name the place for which an account's vendor tokens are sealed."""
    return f"vendor_tokens:{account}"


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
                sql("coordination.begin_idempotent"),
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
            known = await connection.fetchrow(sql("coordination.lock_idempotent"), tenant_id, key_hash)
            if known is None:
                return Reservation(kind="running", session_id=plan.id)
            found = SessionId(known["session_id"])
            if known["is_erased"]:
                return Reservation(kind="erased", session_id=found)
            if known["request_hash"] != request_hash:
                return Reservation(kind="reused", session_id=found)
            if known["answer_sealed"] is not None:
                answer = self._keyring.open(known["answer_sealed"], answer_place(found))
                return Reservation(kind="replayed", session_id=found, answer=answer)
            if not known["lease_is_over"]:
                return Reservation(kind="running", session_id=found)
            # A session that the vendor refused, or never had, is not brought back: the call starts anew.
            is_dead = known["session_status"] in {None, "failed"}
            session_id = plan.id if is_dead else found
            await connection.execute(
                sql("coordination.resume_idempotent"), tenant_id, key_hash, session_id, lease, lease_seconds
            )
            if is_dead:
                await connection.execute(sql("sessions.insert"), *session)
                return Reservation(kind="new", session_id=session_id)
            is_owed = known["session_owed"] == "create"
            return Reservation(kind="resumed" if is_owed else "established", session_id=session_id)

    async def finish(self, tenant_id: TenantId, key: str, session_id: SessionId, answer: bytes) -> None:
        """Keep the answer that every repeat will get."""
        await self._database.execute(
            sql("coordination.finish_idempotent"),
            tenant_id,
            await self._key_hash(tenant_id, key),
            self._keyring.seal(answer, answer_place(session_id)),
        )

    async def abandon(self, tenant_id: TenantId, key: str, lease: Lease) -> None:
        """The call failed: the same key may try again at once."""
        await self._database.execute(
            sql("coordination.abandon_idempotent"), tenant_id, await self._key_hash(tenant_id, key), lease
        )

    async def forget_old(self) -> None:
        """Delete keys beyond the time for which a repeat is recognised."""
        await self._database.execute(sql("coordination.forget_idempotent"), IDEMPOTENCY_KEPT_SECONDS)

    async def _key_hash(self, tenant_id: TenantId, key: str) -> bytes:
        return await self._hasher.hash("idempotency_key", f"{tenant_id}\0{key}".encode())


class TokenRows:
    """Vendor tokens, sealed, and the right to get new ones."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def read(self, account: Account) -> TokenState:
        """Return the tokens of an account."""
        row = await self._database.fetchrow(sql("coordination.vendor_tokens"), account)
        if row is None:
            return TokenState(tokens=None, generation=0, is_leased=False)
        sealed = row["tokens_sealed"]
        return TokenState(
            tokens=self._keyring.open(sealed, tokens_place(account)) if sealed else None,
            generation=row["generation"],
            is_leased=bool(row["is_leased"]),
        )

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        """Take the right to replace the tokens of that generation; false when somebody has it or did it."""
        row = await self._database.fetchrow(
            sql("coordination.lease_vendor_tokens"), account, lease, seconds, generation
        )
        return row is not None

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        """Store new tokens; false when the lease was lost meanwhile."""
        row = await self._database.fetchrow(
            sql("coordination.store_vendor_tokens"),
            account,
            lease,
            self._keyring.seal(tokens, tokens_place(account)),
        )
        return row is not None

    async def release(self, account: Account, lease: Lease) -> None:
        """Give the right back."""
        await self._database.execute(sql("coordination.release_vendor_tokens"), account, lease)


class LeaseRows:
    """Named rights that one process has at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, lease: Lease, seconds: float) -> bool:
        """Take or renew a right; false while another process has it."""
        row = await self._database.fetchrow(sql("coordination.take_lease"), name, lease, seconds)
        return row is not None

    async def release(self, name: str, lease: Lease) -> None:
        """Give a right back, if it is ours."""
        await self._database.execute(sql("coordination.release_lease"), name, lease)


# Account, session, kind, shape, hash and size of the body, whether it ends the session.
_Event = tuple[Any, ...]


class WebhookRows:
    """What the vendor told us.

    An event that comes alone is written at once, by itself. What comes meanwhile is written together, in one
    statement and one commit; each caller goes on after the commit of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Gathered(self._write)
        self._is_one_alone = False

    async def receive(
        self,
        account: Account,
        *,
        session_id: str,
        kind: str,
        shape: str,
        body_sha256: bytes,
        body_bytes: int,
        is_ending: bool,
    ) -> Received:
        """Record an event and make its results due, in one statement: one round trip, one commit."""
        event = (account, session_id, kind, shape, body_sha256, body_bytes, is_ending)
        if self._together.is_idle and not self._is_one_alone:
            self._is_one_alone = True
            try:
                return await self._receive_alone(event)
            finally:
                self._is_one_alone = False
        return await self._together(event) or await self._receive_alone(event)

    async def _receive_alone(self, event: _Event) -> Received:
        row = await self._database.fetchrow(sql("webhooks.receive"), *event)
        if row is None:  # pragma: no cover - the statement always returns its row
            raise AssertionError("the recorded webhook returned no row")
        return Received(phase=row["phase"], is_first=row["is_first"], due=row["due"])

    async def _write(self, events: Sequence[_Event]) -> Sequence[Received | None]:
        """Write a batch; None is one that must be received alone.

        That is a second kind of event of one session, one whose session somebody holds, and each of a batch
        that the database refuses for what is in it: which one was to blame shows then.
        """
        times = Counter(map(_telling, events))
        chosen: dict[str, _Event] = {}
        for event in events:
            chosen.setdefault(event[1], event)
        rows = [(*event, times[_telling(event)]) for event in chosen.values()]
        try:
            columns = map(list, zip(*rows, strict=True))
            written = await self._database.fetch(sql("webhooks.receive_many"), *columns)
        except StoreUnavailable:
            raise
        except (BridgeError, PostgresError):
            return [None] * len(events)
        received = {
            _telling(chosen[row["session_id"]]): Received(
                phase=row["phase"], is_first=row["is_first"], due=row["due"]
            )
            for row in written
        }
        answers = []
        for event in events:
            answer = received.get(telling := _telling(event))
            answers.append(answer)
            if answer is not None:
                received[telling] = Received(phase=answer.phase, is_first=False, due=0)
        return answers


def _telling(event: _Event) -> _Event:
    """Return what makes two events the same: account, session, kind."""
    return event[:3]
