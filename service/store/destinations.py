"""Destinations: the URL, headers, credentials and secrets of a call to an EMR, encrypted."""

import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
from asyncpg import Record
from msgspec import UNSET, UnsetType

from schemas.destinations import (
    Auth,
    AuthShown,
    Destination,
    DestinationChange,
    DestinationCreate,
    MutualTls,
)
from schemas.pages import Page
from service.domain.audit import Actor
from service.domain.errors import InvalidRequest, NotFound, TooManyDestinations
from service.domain.idempotency import KeyedCall, Reservation
from service.domain.ids import DestinationId, Lease, TenantId
from service.store.audit import AuditedUnitRows
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.erasure import erase_answers
from service.store.idempotency import IdempotencyKeys
from service.store.paging import PageAfter, page_of
from service.store.queries import sql
from service.store.tolerant_decryption import UNREADABLE, RowDecryptor

_MASK = "***"
_TABLE = "destinations"
# One transaction reserves a key and stores its answer, so no other call ever meets this lease.
_LEASE_SECONDS = 60.0


def url_aad(destination_id: str) -> str:
    """Return the AAD that binds a URL to its destination."""
    return f"destination.url:{destination_id}"


def secrets_aad(destination_id: str) -> str:
    """Return the AAD that binds signing secrets to their destination."""
    return f"destination.secrets:{destination_id}"


def headers_aad(destination_id: str) -> str:
    """Return the AAD that binds static headers to their destination."""
    return f"destination.headers:{destination_id}"


def auth_aad(destination_id: str) -> str:
    """Return the AAD that binds credentials to their destination."""
    return f"destination.auth:{destination_id}"


def decrypt_url(keyring: Keyring, destination_id: str, encrypted: bytes) -> str:
    """Decrypt a destination's URL."""
    return keyring.decrypt(encrypted, url_aad(destination_id)).decode()


def decrypt_headers(keyring: Keyring, destination_id: str, encrypted: bytes | None) -> dict[str, str]:
    """Decrypt a destination's static headers."""
    if encrypted is None:
        return {}
    return keyring.decrypt_json(encrypted, headers_aad(destination_id), dict[str, str])


def decrypt_secrets(
    keyring: Keyring, destination_id: str, encrypted: bytes, *, is_rotating: bool
) -> list[str]:
    """Decrypt the secrets that sign now, newest first; during a rotation the previous one signs too."""
    found = keyring.decrypt_json(encrypted, secrets_aad(destination_id), list[str])
    return found if is_rotating else found[:1]


def decrypt_auth(keyring: Keyring, destination_id: str, encrypted: bytes | None) -> Auth | None:
    """Decrypt a destination's credentials."""
    if encrypted is None:
        return None
    # msgspec reads the union by its tags; mypy has no type for "one of these types".
    return keyring.decrypt_json(encrypted, auth_aad(destination_id), Auth)  # type: ignore[arg-type]


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class DestinationRows:
    """The domain's DestinationStore over PostgreSQL, and the destinations as people and EMRs read them."""

    def __init__(
        self, database: Database, keyring: Keyring, keys: IdempotencyKeys, *, max_destinations: int
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._keys = keys
        self._max_destinations = max_destinations

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator["DestinationUnitRows"]:
        """Open a transaction for an actor in the destinations of its tenant."""
        await self._keys.load()  # before the transaction: it may need a connection of its own
        async with self._database.transaction() as connection:
            yield DestinationUnitRows(
                connection, actor, self._keyring, self._keys, max_destinations=self._max_destinations
            )

    async def find_key(self, call: KeyedCall) -> Reservation | None:
        """Return the earlier call with this Idempotency-Key; None if the key is new."""
        hashed = await self._keys.hashed(call)
        async with self._database.transaction() as connection:
            return await self._keys.find(connection, hashed)

    async def page(self, tenant_id: TenantId, after: PageAfter | None, limit: int) -> Page[Destination]:
        """Return one page of a tenant's destinations, newest first."""
        at, last = after or (None, None)
        rows = await self._database.fetch(sql("destinations.list"), tenant_id, at, last, limit + 1)
        found = {row["id"]: await _destination(self._database, self._keyring, row) for row in rows[:limit]}
        return page_of(rows, limit, lambda row: found[row["id"]])

    async def one(self, tenant_id: TenantId, destination_id: DestinationId) -> Destination:
        """Return a destination. Raises NotFound."""
        row = await self._one(tenant_id, destination_id)
        return await _destination(self._database, self._keyring, row)

    async def auth(self, tenant_id: TenantId, destination_id: DestinationId) -> Auth | None:
        """Return a destination's credentials with their secrets, for `ekabridge doctor`, never for an answer.

        Raises NotFound.
        """
        row = await self._one(tenant_id, destination_id)
        return decrypt_auth(self._keyring, destination_id, row["auth_sealed"])

    async def signs_with(self, tenant_id: TenantId, destination_id: DestinationId, secret: str) -> bool:
        """Return whether a secret still signs the destination's calls. Raises NotFound."""
        row = await self._one(tenant_id, destination_id)
        shown = RowDecryptor(self._database, _TABLE, destination_id)
        return secret in await _secrets(self._keyring, shown, row, is_rotating=row["is_rotating"])

    async def _one(self, tenant_id: TenantId, destination_id: DestinationId) -> Record:
        row = await self._database.fetchrow(sql("destinations.one"), tenant_id, destination_id)
        if row is None:
            raise NotFound("no such destination")
        return row


class DestinationUnitRows(AuditedUnitRows):
    """The domain's DestinationUnit over PostgreSQL: one transaction."""

    def __init__(
        self,
        connection: LentConnection,
        actor: Actor,
        keyring: Keyring,
        keys: IdempotencyKeys,
        *,
        max_destinations: int,
    ) -> None:
        super().__init__(connection, actor)
        self._keyring = keyring
        self._keys = keys
        self._max_destinations = max_destinations

    async def reserve_key(self, call: KeyedCall, destination_id: DestinationId) -> Reservation:
        """Reserve the call's Idempotency-Key for a destination, or return the earlier call with that key.

        A second call with the key waits here until the first one's transaction ends.
        """
        hashed = await self._keys.hashed(call)
        lease = Lease(uuid4())
        reserved = await self._keys.reserve(self._connection, hashed, destination_id, lease, _LEASE_SECONDS)
        if reserved.kind == "resumed":
            await self._keys.resume(self._connection, hashed, destination_id, lease, _LEASE_SECONDS)
        return reserved

    async def keep_answer(self, call: KeyedCall, destination_id: DestinationId, answer: bytes) -> None:
        """Store the answer for repeats of the call."""
        await self._keys.finish(self._connection, await self._keys.hashed(call), destination_id, answer)

    async def add(self, destination_id: DestinationId, request: DestinationCreate) -> Destination:
        """Insert a destination; only this answer shows its `secret`.

        Raises NotFound, or TooManyDestinations if the tenant has reached its limit.
        """
        secret = _new_secret()
        # The lock serialises additions: two at once would both count one destination below the limit.
        await self._connection.execute(sql("destinations.lock_tenant"), self._tenant_id)
        most = self._max_destinations
        count = await self._connection.fetchrow(sql("destinations.count"), self._tenant_id, most)
        if count is not None and count["number"] >= most:
            raise TooManyDestinations(f"the tenant has {most} destinations: remove one first")
        # In the order of $1 to $13 of the statement.
        row = await self._connection.fetchrow(
            sql("destinations.insert"),
            destination_id,
            self._tenant_id,
            self._keyring.encrypt(request.url.encode(), url_aad(destination_id)),
            request.events,
            request.templates,
            self._keyring.encrypt_json([secret], secrets_aad(destination_id)),
            request.payload,
            request.format,
            self._encrypted(request.headers, headers_aad(destination_id)),
            self._encrypted(request.auth, auth_aad(destination_id)),
            request.timeout_seconds,
            request.rate_per_second,
            request.enabled,
        )
        if row is None:
            raise NotFound("no such tenant")
        return msgspec.structs.replace(await self._destination(row), secret=secret)

    async def change(self, destination_id: DestinationId, change: DestinationChange) -> Destination:
        """Change a destination; turning it on releases its deliveries, turning it off pauses them.

        Raises NotFound, or InvalidRequest for a new host that would receive the old host's secrets.
        """
        if change.url:
            before = await self._connection.fetchrow(
                sql("destinations.hold"), self._tenant_id, destination_id
            )
            if before is not None:
                await self._check_new_host(before, change)
        # In the order of $1 to $16 of the statement.
        row = await self._connection.fetchrow(
            sql("destinations.change"),
            self._tenant_id,
            destination_id,
            change.enabled,
            change.events,
            change.templates,
            self._keyring.encrypt(change.url.encode(), url_aad(destination_id)) if change.url else None,
            change.payload,
            change.format,
            change.headers is not UNSET,
            self._encrypted(change.headers, headers_aad(destination_id)),
            change.auth is not UNSET,
            self._encrypted(change.auth, auth_aad(destination_id)),
            change.timeout_seconds is not UNSET,
            change.timeout_seconds or None,
            change.rate_per_second is not UNSET,
            change.rate_per_second or None,
        )
        if row is None:
            raise NotFound("no such destination")
        if change.enabled is True:
            await self._connection.execute(sql("deliveries.resume"), destination_id)
        elif change.enabled is False:
            await self._connection.execute(sql("deliveries.pause_deliveries"), destination_id, "disabled")
        return await self._destination(row)

    async def _check_new_host(self, before: Record, change: DestinationChange) -> None:
        """Refuse to send stored headers or credentials to another host: a new URL could steal them.

        A URL that nobody can decrypt any more counts as another host.
        """
        keeps = [
            name
            for name, given in (("headers", change.headers), ("auth", change.auth))
            if before[f"{name}_sealed"] is not None and given is UNSET
        ]
        if not keeps:
            return
        shown = RowDecryptor(self._connection, _TABLE, before["id"])
        old = await shown.value(
            "url_sealed", lambda: decrypt_url(self._keyring, before["id"], before["url_sealed"]), ""
        )
        if urlsplit(old)[:2] != urlsplit(change.url or "")[:2]:
            raise InvalidRequest(
                f"leads to another host{'' if old else ', for all that is known'}: "
                f"give {' and '.join(keeps)} anew with it, or null",
                field="url",
            )

    async def rotate_secret(self, destination_id: DestinationId, overlap_seconds: float) -> Destination:
        """Make a new secret; the previous one signs too until the rotation ends. Raises NotFound."""
        # The lock serialises rotations: the second one keeps the secret of the first as its previous one.
        row = await self._connection.fetchrow(sql("destinations.hold"), self._tenant_id, destination_id)
        if row is None:
            raise NotFound("no such destination")
        shown = RowDecryptor(self._connection, _TABLE, destination_id)
        current = await _secrets(self._keyring, shown, row)
        secret = _new_secret()
        kept = [secret, *current] if overlap_seconds else [secret]
        changed = await self._connection.fetchrow(
            sql("destinations.rotate"),
            destination_id,
            self._keyring.encrypt_json(kept, secrets_aad(destination_id)),
            float(overlap_seconds) if current else 0.0,
        )
        if changed is None:  # pragma: no cover - its row is locked
            raise AssertionError("the locked destination is gone")
        return msgspec.structs.replace(await self._destination(changed), secret=secret)

    async def remove(self, destination_id: DestinationId) -> None:
        """Remove a destination and give up its waiting deliveries. Raises NotFound."""
        row = await self._connection.fetchrow(sql("destinations.remove"), self._tenant_id, destination_id)
        if row is None:
            raise NotFound("no such destination")
        await self._connection.execute(sql("destinations.give_up_deliveries"), destination_id)
        await erase_answers(self._connection, self._tenant_id, destination_id)

    def _encrypted(self, value: dict[str, str] | Auth | UnsetType | None, aad: str) -> bytes | None:
        if not value or isinstance(value, UnsetType):
            return None
        return self._keyring.encrypt_json(value, aad)

    async def _destination(self, row: Record) -> Destination:
        return await _destination(self._connection, self._keyring, row)


async def _secrets(
    keyring: Keyring, shown: RowDecryptor, row: Record, *, is_rotating: bool = False
) -> list[str]:
    """Decrypt the secrets that sign; an empty list if nobody can decrypt them any more."""
    return await shown.value(
        "secrets_sealed",
        lambda: decrypt_secrets(keyring, row["id"], row["secrets_sealed"], is_rotating=is_rotating),
        [],
    )


async def _destination(database: Database | LentConnection, keyring: Keyring, row: Record) -> Destination:
    """Read a row for an answer; a value that nobody can decrypt any more is empty until it is set again."""
    destination_id = row["id"]
    shown = RowDecryptor(database, _TABLE, destination_id)
    url = await shown.value("url_sealed", lambda: decrypt_url(keyring, destination_id, row["url_sealed"]), "")
    headers: dict[str, str] = await shown.value(
        "headers_sealed",
        lambda: decrypt_headers(keyring, destination_id, row["headers_sealed"]),
        {},
    )
    auth = await shown.value(
        "auth_sealed", lambda: decrypt_auth(keyring, destination_id, row["auth_sealed"]), None
    )
    await _secrets(keyring, shown, row)  # the answer only tells whether the secret is readable
    return Destination(
        id=destination_id,
        url=url,
        events=row["events"],
        templates=row["templates"],
        payload=row["payload"],
        format=row["format"],
        headers=dict.fromkeys(headers, _MASK),
        timeout_seconds=row["timeout_seconds"],
        rate_per_second=row["rate_per_second"],
        auth=_shown(auth),
        enabled=row["enabled"],
        paused_reason=_paused_reason(row, shown),
        previous_secret_until=row["previous_until"],
        created_at=row["created_at"],
    )


def _paused_reason(row: Record, shown: RowDecryptor) -> str | None:
    if not shown.is_whole:
        return UNREADABLE
    reason: str | None = row["paused_reason"]
    if not row["enabled"]:
        return reason
    if row["probe_at"]:
        return "failing"
    return "retry_after" if row["is_told_to_wait"] else reason


def _shown(auth: Auth | None) -> AuthShown | None:
    if auth is None:
        return None
    if isinstance(auth, MutualTls):
        return AuthShown(type="mtls")
    return AuthShown(type="oauth2", token_url=auth.token_url, client_id=auth.client_id, scope=auth.scope)
