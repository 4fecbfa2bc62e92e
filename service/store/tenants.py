"""Rows of tenants, API keys and the audit trail."""

import secrets
from typing import Any

import msgspec
from asyncpg import Record

from schemas.emr import ApiKey, Role, Tenant, TenantDefaults
from service.domain.errors import NotFound
from service.domain.ids import (
    DEFAULT_ACCOUNT,
    Account,
    KeyId,
    TenantId,
    new_key_id,
    new_tenant_id,
)
from service.domain.models import Principal
from service.domain.vendor_accounts import VendorAccount
from service.store.database import Database
from service.store.encryption import Hasher, Keyring
from service.store.queries import sql

_KEY_PREFIX = "ekb_"
_KEY_PURPOSE = "api_key"


def account_place(tenant_id: TenantId) -> str:
    """Name the place for which a tenant's own vendor account is sealed."""
    return f"tenant.account:{tenant_id}"


class AccessRows:
    """Who may do what."""

    def __init__(self, database: Database, hasher: Hasher, keyring: Keyring) -> None:
        self._database = database
        self._hasher = hasher
        self._keyring = keyring

    async def add_tenant(
        self, name: str, defaults: TenantDefaults, account: VendorAccount | None = None
    ) -> Tenant:
        """Insert a tenant, with a vendor account of its own or sharing the default one."""
        tenant_id = new_tenant_id()
        sealed = self._keyring.seal_json(account, account_place(tenant_id)) if account else None
        row = await self._database.fetchrow(
            sql("access.insert_tenant"), tenant_id, name, msgspec.to_builtins(defaults), sealed
        )
        return tenant_of(row) if row else _vanished("tenant")

    async def list_tenants(self) -> list[Tenant]:
        """Return every tenant, oldest first."""
        return [tenant_of(row) for row in await self._database.fetch(sql("access.list_tenants"))]

    async def tenant(self, tenant_id: TenantId) -> Tenant:
        """Return one tenant. Raises NotFound."""
        row = await self._database.fetchrow(sql("access.tenant"), tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return tenant_of(row)

    async def add_key(self, tenant_id: TenantId, role: Role) -> ApiKey:
        """Insert a key; the answer is the only place where `key` ever stands. Raises NotFound."""
        key = _KEY_PREFIX + secrets.token_urlsafe(32)
        row = await self._database.fetchrow(
            sql("access.insert_key"),
            new_key_id(),
            tenant_id,
            role,
            await self._hasher.hash(_KEY_PURPOSE, key.encode()),
        )
        if row is None:
            raise NotFound("no such tenant")
        return msgspec.structs.replace(_api_key(row), key=key)

    async def list_keys(self, tenant_id: TenantId) -> list[ApiKey]:
        """Return a tenant's keys, oldest first, revoked ones included."""
        return [_api_key(row) for row in await self._database.fetch(sql("access.list_keys"), tenant_id)]

    async def revoke_key(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey:
        """Revoke a key, at once and on every pod. Raises NotFound."""
        row = await self._database.fetchrow(sql("access.revoke_key"), tenant_id, key_id)
        if row is None:
            raise NotFound("no such key of this tenant")
        return _api_key(row)

    async def hash_of(self, key: str) -> bytes | None:
        """Return the keyed hash by which a key is found; None for what cannot be a key of ours."""
        if not key.startswith(_KEY_PREFIX) or not key.isascii():
            return None
        return await self._hasher.hash(_KEY_PURPOSE, key.encode())

    async def principals(self, hashes: list[bytes]) -> dict[bytes, Principal]:
        """Return who these keys are, without those that are unknown or revoked."""
        rows = await self._database.fetch(sql("access.principals_by_key"), hashes)
        return {row["key_hash"]: principal_of(row) for row in rows}

    async def standing_keys(self, key_ids: list[KeyId]) -> set[KeyId]:
        """Return those of the keys that are there and were not revoked."""
        rows = await self._database.fetch(sql("access.standing_keys"), key_ids)
        return {KeyId(row["id"]) for row in rows}

    async def audit(self, tenant_id: TenantId, actor: str, action: str, object_id: str, **facts: Any) -> None:
        """Record who did what; the facts carry no content."""
        await self._database.execute(sql("access.insert_audit"), tenant_id, actor, action, object_id, facts)


def principal_of(row: Record) -> Principal:
    """Read who a key is from its row."""
    return Principal(
        key_id=KeyId(row["key_id"]),
        tenant_id=TenantId(row["tenant_id"]),
        role=row["role"],
        defaults=msgspec.convert(row["defaults"], TenantDefaults),
        account=Account(row["tenant_id"]) if row["own_account"] else DEFAULT_ACCOUNT,
    )


def tenant_of(row: Record) -> Tenant:
    """Read a tenant from its row."""
    return Tenant(
        id=row["id"],
        name=row["name"],
        defaults=msgspec.convert(row["defaults"], TenantDefaults),
        own_account=row["own_account"],
        keep_content_days=row["keep_content_days"],
        keep_metadata_days=row["keep_metadata_days"],
        created_at=row["created_at"],
    )


def _api_key(row: Record) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant_id=row["tenant_id"],
        role=row["role"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )


def _vanished(what: str) -> Any:  # pragma: no cover - INSERT … RETURNING always returns its row
    raise AssertionError(f"the new {what} returned no row")
