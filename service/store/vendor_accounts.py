"""Rows of tenants' own accounts at the vendor, sealed."""

from schemas.emr import Tenant
from service.domain.errors import AccountInUse, NotFound
from service.domain.ids import TenantId
from service.domain.vendor_accounts import AccountChange, VendorAccount, changed_account
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.queries import sql
from service.store.tenants import account_aad, tenant_of


class VendorAccountRows:
    """The domain's AccountStore over PostgreSQL, and how an operator changes what it finds."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def own(self, tenant_id: TenantId) -> VendorAccount | None:
        """Return a tenant's own account; None when it shares the default one, or is unknown."""
        row = await self._database.fetchrow(sql("vendor_accounts.own"), tenant_id)
        return self._opened(tenant_id, row["account_sealed"]) if row else None

    async def change(self, tenant_id: TenantId, change: AccountChange, *, force: bool) -> Tenant:
        """Give a tenant an account of its own, or change it; what the change leaves out stays.

        Sessions keep the account that they began with, so another client or user of the vendor's is refused
        while some are not done, unless `force` says that it sees the same sessions. Raises NotFound,
        InvalidRequest or AccountInUse.
        """
        async with self._database.transaction() as connection:
            current = await self._locked(connection, tenant_id)
            wanted = changed_account(current, change)
            if current is not None and current.credentials.identity != wanted.credentials.identity:
                await self._check_unused(connection, tenant_id, is_forced=force)
            return await self._set(connection, tenant_id, wanted)

    async def clear(self, tenant_id: TenantId) -> Tenant:
        """Let a tenant share the default account again. Raises NotFound or AccountInUse."""
        async with self._database.transaction() as connection:
            await self._locked(connection, tenant_id)
            await self._check_unused(connection, tenant_id, is_forced=False)
            return await self._set(connection, tenant_id, None)

    async def _locked(self, connection: LentConnection, tenant_id: TenantId) -> VendorAccount | None:
        row = await connection.fetchrow(sql("vendor_accounts.lock"), tenant_id)
        if row is None:
            raise NotFound("no such tenant")
        return self._opened(tenant_id, row["account_sealed"])

    async def _check_unused(
        self, connection: LentConnection, tenant_id: TenantId, *, is_forced: bool
    ) -> None:
        row = await connection.fetchrow(sql("vendor_accounts.is_used"), tenant_id)
        if row is not None and row["is_used"] and not is_forced:
            raise AccountInUse(
                "sessions of this account are not done yet: end them, or wait for their results"
            )

    async def _set(
        self, connection: LentConnection, tenant_id: TenantId, account: VendorAccount | None
    ) -> Tenant:
        sealed = None
        if account is not None:
            sealed = self._keyring.seal_json(account, account_aad(tenant_id))
        row = await connection.fetchrow(sql("vendor_accounts.set"), tenant_id, sealed)
        if row is None:  # pragma: no cover - its row is locked
            raise NotFound("no such tenant")
        await connection.execute(sql("vendor_accounts.forget_tokens"), tenant_id)
        return tenant_of(row)

    def _opened(self, tenant_id: TenantId, sealed: bytes | None) -> VendorAccount | None:
        if sealed is None:
            return None
        return self._keyring.open_json(sealed, account_aad(tenant_id), VendorAccount)
