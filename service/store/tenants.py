"""Tenants: the hospitals that share an installation, each with its defaults and retention."""

import msgspec
from asyncpg import Record

from schemas.emr import Tenant, TenantDefaults
from service.domain.errors import NotFound
from service.domain.ids import TenantId, new_tenant_id
from service.domain.vendor_accounts import VendorAccount
from service.store.database import Database
from service.store.encryption import Keyring
from service.store.queries import sql


def account_aad(tenant_id: TenantId) -> str:
    """Return the AAD that binds a vendor account to its tenant."""
    return f"tenant.account:{tenant_id}"


class TenantRows:
    """The rows of tenants."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def add(self, name: str, defaults: TenantDefaults, account: VendorAccount | None = None) -> Tenant:
        """Insert a tenant, with a vendor account of its own or sharing the default one."""
        tenant_id = new_tenant_id()
        sealed = self._keyring.seal_json(account, account_aad(tenant_id)) if account else None
        row = await self._database.fetchrow(
            sql("tenants.insert"), tenant_id, name, msgspec.to_builtins(defaults), sealed
        )
        if row is None:  # pragma: no cover - INSERT … RETURNING always returns its row
            raise AssertionError("the new tenant returned no row")
        return tenant_of(row)

    async def list_tenants(self) -> list[Tenant]:
        """Return every tenant, oldest first."""
        return [tenant_of(row) for row in await self._database.fetch(sql("tenants.list"))]

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return one tenant. Raises NotFound."""
        row = await self._database.fetchrow(sql("tenants.get"), tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return tenant_of(row)


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
