"""API keys. The database stores only keyed hashes; a revocation counts at once on every pod."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from asyncpg import Record

from schemas.api_keys import ApiKey, Role
from schemas.tenants import SessionDefaults
from service.domain.api_keys.models import Principal
from service.domain.audit import Actor
from service.domain.errors import NotFound
from service.domain.ids import DEFAULT_ACCOUNT, Account, KeyId, TenantId, new_key_id
from service.store.audit import AuditedUnitRows
from service.store.database import Database, LentConnection
from service.store.encryption import Hasher
from service.store.queries import sql

_KEY_PREFIX = "ekb_"
_KEY_PURPOSE = "api_key"


class ApiKeyRows:
    """The domain's ApiKeyStore over PostgreSQL, and the lookups that authenticate a request."""

    def __init__(self, database: Database, hasher: Hasher) -> None:
        self._database = database
        self._hasher = hasher

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator["ApiKeyUnitRows"]:
        """Open a transaction for an actor in the keys of its tenant."""
        await self._hasher.load()  # before the transaction: it may need a connection of its own
        async with self._database.transaction() as connection:
            yield ApiKeyUnitRows(connection, actor, self._hasher)

    async def list_keys(self, tenant_id: TenantId) -> list[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""
        return [_api_key(row) for row in await self._database.fetch(sql("api_keys.list"), tenant_id)]

    async def hash_of(self, key: str) -> bytes | None:
        """Return the keyed hash that finds a key; None for a text that cannot be a key of ours."""
        if not key.startswith(_KEY_PREFIX) or not key.isascii():
            return None
        return await self._hasher.hash(_KEY_PURPOSE, key.encode())

    async def principals(self, hashes: list[bytes]) -> dict[bytes, Principal]:
        """Return the principals of these keys, without unknown and revoked ones."""
        rows = await self._database.fetch(sql("api_keys.principals_by_hash"), hashes)
        return {row["key_hash"]: principal_of(row) for row in rows}

    async def active_keys(self, key_ids: list[KeyId]) -> set[KeyId]:
        """Return those of the keys that exist and are not revoked."""
        rows = await self._database.fetch(sql("api_keys.active"), key_ids)
        return {KeyId(row["id"]) for row in rows}


class ApiKeyUnitRows(AuditedUnitRows):
    """The domain's ApiKeyUnit over PostgreSQL: one transaction."""

    def __init__(self, connection: LentConnection, actor: Actor, hasher: Hasher) -> None:
        super().__init__(connection, actor)
        self._hasher = hasher

    async def add(self, role: Role) -> ApiKey:
        """Insert a key; only this answer shows it. Raises NotFound."""
        key = _KEY_PREFIX + secrets.token_urlsafe(32)
        row = await self._connection.fetchrow(
            sql("api_keys.insert"),
            new_key_id(),
            self._tenant_id,
            role,
            await self._hasher.hash(_KEY_PURPOSE, key.encode()),
        )
        if row is None:
            raise NotFound("no such tenant")
        return msgspec.structs.replace(_api_key(row), key=key)

    async def revoke(self, key_id: KeyId) -> ApiKey:
        """Revoke a key, at once and on every pod. Raises NotFound."""
        row = await self._connection.fetchrow(sql("api_keys.revoke"), self._tenant_id, key_id)
        if row is None:
            raise NotFound("no such key of this tenant")
        return _api_key(row)


def principal_of(row: Record) -> Principal:
    """Read a principal from the row of its key."""
    return Principal(
        key_id=KeyId(row["key_id"]),
        tenant_id=TenantId(row["tenant_id"]),
        role=row["role"],
        defaults=msgspec.convert(row["defaults"], SessionDefaults),
        keep_audio=row["keep_audio"],
        account=Account(row["tenant_id"]) if row["own_account"] else DEFAULT_ACCOUNT,
    )


def _api_key(row: Record) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant_id=row["tenant_id"],
        role=row["role"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
