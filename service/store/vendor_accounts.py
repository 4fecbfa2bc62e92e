"""Tenants' own accounts at the vendor, encrypted."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from schemas.tenants import Tenant
from service.concurrency.batching import Batcher
from service.domain.audit import Actor
from service.domain.errors import NotFound, StoreUnavailable
from service.domain.ids import TenantId
from service.domain.vendor_accounts import VendorAccount
from service.store.audit import AuditedUnitRows
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql
from service.store.tenants import account_aad, tenant_of


class VendorAccountRows:
    """The domain's AccountStore and VendorAccountStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        # A webhook can name any tenant without a key, so concurrent lookups share one query.
        self._lookups = Batcher(self._find, unavailable=StoreUnavailable)

    async def _find(self, tenant_ids: Sequence[TenantId]) -> list[bytes | None]:
        rows = await self._database.fetch(sql("vendor_accounts.own"), list(set(tenant_ids)))
        encrypted = {row["id"]: row["account_sealed"] for row in rows}
        return [encrypted.get(tenant_id) for tenant_id in tenant_ids]

    async def own(self, tenant_id: TenantId) -> VendorAccount | None:
        """Return a tenant's own account; None if it shares the default account or does not exist."""
        return _opened(self._keyring, tenant_id, await self._lookups(tenant_id))

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator["VendorAccountUnitRows"]:
        """Open a transaction for an actor in the account of its tenant."""
        async with self._database.transaction() as connection:
            yield VendorAccountUnitRows(connection, actor, self._keyring)


class VendorAccountUnitRows(AuditedUnitRows):
    """The domain's VendorAccountUnit over PostgreSQL: one transaction."""

    def __init__(self, connection: LentConnection, actor: Actor, keyring: Keyring) -> None:
        super().__init__(connection, actor)
        self._keyring = keyring

    async def lock(self) -> VendorAccount | None:
        """Return the tenant's own account and lock the tenant's row. Raises NotFound."""
        row = await self._connection.fetchrow(sql("vendor_accounts.lock"), self._tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return _opened(self._keyring, self._tenant_id, row["account_sealed"])

    async def is_used(self) -> bool:
        """Return whether a session with the account is not finished."""
        row = await self._connection.fetchrow(sql("vendor_accounts.is_used"), self._tenant_id)
        return row is not None and bool(row["is_used"])

    async def set(self, account: VendorAccount | None) -> Tenant:
        """Store an account, or share the default one with None; forgets the tokens of the old account."""
        encrypted = None
        if account is not None:
            encrypted = self._keyring.encrypt_json(account, account_aad(self._tenant_id))
        row = await self._connection.fetchrow(sql("vendor_accounts.set"), self._tenant_id, encrypted)
        if row is None:  # pragma: no cover - its row is locked
            raise NotFound("no such tenant")
        await self._connection.execute(sql("vendor_accounts.forget_tokens"), self._tenant_id)
        return tenant_of(row)


def _opened(keyring: Keyring, tenant_id: TenantId, encrypted: bytes | None) -> VendorAccount | None:
    if encrypted is None:
        return None
    return keyring.decrypt_json(encrypted, account_aad(tenant_id), VendorAccount)
