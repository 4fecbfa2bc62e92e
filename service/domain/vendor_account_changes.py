"""Changes of a tenant's own account at the vendor: given, replaced or cleared."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from schemas.tenants import Tenant
from service.domain.audit import Actor, AuditedUnit
from service.domain.errors import AccountInUse
from service.domain.ids import TenantId
from service.domain.vendor_accounts import AccountChange, VendorAccount, account_facts, changed_account


class VendorAccountUnit(AuditedUnit, Protocol):
    """One transaction in a tenant's vendor account."""

    async def lock(self) -> VendorAccount | None:
        """Return the tenant's own account; the tenant's row is locked. Raises NotFound."""
        ...

    async def is_used(self) -> bool:
        """Whether a session of the account is not done yet."""
        ...

    async def set(self, account: VendorAccount | None) -> Tenant:
        """Store another account, or with None share the default one; tokens of the old one are forgotten."""
        ...


class VendorAccountStore(Protocol):
    """Rows of tenants' own accounts."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[VendorAccountUnit]:
        """Open a transaction for an actor in the account of its tenant."""
        ...


class VendorAccounts:
    """Changes tenants' own accounts; each change and its audit entry are one transaction."""

    def __init__(self, store: VendorAccountStore) -> None:
        self._store = store

    async def change(self, tenant_id: TenantId, change: AccountChange, *, force: bool) -> Tenant:
        """Give a tenant an account of its own, or change it; fields that the change leaves out stay.

        Sessions keep the account that they began with, so another client or user of the vendor's is refused
        while some are not done, unless `force` says that it sees the same sessions. Raises NotFound,
        InvalidRequest or AccountInUse.
        """
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            current = await unit.lock()
            wanted = changed_account(current, change)
            is_other = current is not None and current.credentials.identity != wanted.credentials.identity
            if is_other and not force:
                await _check_unused(unit)
            changed = await unit.set(wanted)
            await unit.record("account.changed", tenant_id, **account_facts(change))
        return changed

    async def clear(self, tenant_id: TenantId) -> Tenant:
        """Let a tenant share the default account again. Raises NotFound or AccountInUse."""
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            await unit.lock()
            await _check_unused(unit)
            cleared = await unit.set(None)
            await unit.record("account.cleared", tenant_id)
        return cleared


async def _check_unused(unit: VendorAccountUnit) -> None:
    if await unit.is_used():
        raise AccountInUse("sessions of this account are not done yet: end them, or wait for their results")
