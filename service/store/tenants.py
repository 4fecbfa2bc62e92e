"""Tenants: the hospitals that share an installation, each with its defaults and retention."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from asyncpg import Record

from schemas.tenants import KeepAudio, SessionDefaults, Tenant
from service.domain.audit import Actor
from service.domain.errors import NotFound
from service.domain.ids import TenantId
from service.domain.tenants.changes import Retention
from service.domain.vendor_accounts import VendorAccount
from service.store.audit import AuditedUnitRows
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql


def account_aad(tenant_id: TenantId) -> str:
    """Return the AAD that binds a vendor account to its tenant."""
    return f"tenant.account:{tenant_id}"


class TenantRows:
    """The domain's TenantStore over PostgreSQL, and the tenants as operators read them."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator["TenantUnitRows"]:
        """Open a transaction for an actor in the row of its tenant."""
        async with self._database.transaction() as connection:
            yield TenantUnitRows(connection, actor, self._keyring)

    async def list_tenants(self) -> list[Tenant]:
        """Return every tenant, oldest first."""
        return [tenant_of(row) for row in await self._database.fetch(sql("tenants.list"))]

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return one tenant. Raises NotFound."""
        row = await self._database.fetchrow(sql("tenants.get"), tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return tenant_of(row)


class TenantUnitRows(AuditedUnitRows):
    """The domain's TenantUnit over PostgreSQL: one transaction."""

    def __init__(self, connection: LentConnection, actor: Actor, keyring: Keyring) -> None:
        super().__init__(connection, actor)
        self._keyring = keyring

    async def add(self, name: str, defaults: SessionDefaults, account: VendorAccount | None) -> Tenant:
        """Insert the tenant, with a vendor account of its own or sharing the default one."""
        encrypted = self._keyring.encrypt_json(account, account_aad(self._tenant_id)) if account else None
        row = await self._connection.fetchrow(
            sql("tenants.insert"), self._tenant_id, name, msgspec.to_builtins(defaults), encrypted
        )
        if row is None:  # pragma: no cover - INSERT … RETURNING always returns its row
            raise AssertionError("the new tenant returned no row")
        return tenant_of(row)

    async def lock_retention(self) -> Retention:
        """Return the retention of the tenant and lock its row. Raises NotFound."""
        row = await self._connection.fetchrow(sql("tenants.lock_retention"), self._tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return Retention(content_days=row["keep_content_days"], rows_days=row["keep_metadata_days"])

    async def set_retention(self, retention: Retention) -> Tenant:
        """Set the retention of the tenant's content and rows."""
        row = await self._connection.fetchrow(
            sql("tenants.set_retention"), self._tenant_id, retention.content_days, retention.rows_days
        )
        if row is None:  # pragma: no cover - its row is locked
            raise NotFound("no such tenant")
        return tenant_of(row)

    async def set_keep_audio(self, choice: KeepAudio | None) -> Tenant:
        """Set for how long the tenant's confirmed audio is kept. Raises NotFound."""
        row = await self._connection.fetchrow(sql("tenants.set_keep_audio"), self._tenant_id, choice)
        if row is None:
            raise NotFound("no such tenant")
        return tenant_of(row)


def tenant_of(row: Record) -> Tenant:
    """Read a tenant from its row."""
    return Tenant(
        id=row["id"],
        name=row["name"],
        defaults=msgspec.convert(row["defaults"], SessionDefaults),
        own_account=row["own_account"],
        keep_content_days=row["keep_content_days"],
        keep_metadata_days=row["keep_metadata_days"],
        keep_audio=row["keep_audio"],
        created_at=row["created_at"],
    )
