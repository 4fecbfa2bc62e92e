"""Changes of tenants: a new one, and for how long its content, its rows and its audio are kept.

There is no default retention: a new tenant keeps everything for ever until its days are set. A default would
be the columns' default in a migration, or values that `add` passes to the store.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType

from schemas.tenants import KeepAudio, SessionDefaults, Tenant
from service.domain.audit import Actor, AuditedUnit
from service.domain.errors import InvalidRequest
from service.domain.ids import TenantId, new_tenant_id
from service.domain.vendor_accounts import AccountChange, VendorAccount, account_facts, changed_account


class Retention(Struct, frozen=True, kw_only=True):
    """For how many days a tenant's content and rows are kept; None is for ever.

    The command line and JSON call the days of the rows `metadata_days`.
    """

    content_days: int | None
    rows_days: int | None


class RetentionChange(Struct, frozen=True, kw_only=True):
    """For how many days content and rows are kept from now on; None is for ever, UNSET stays as it is."""

    content_days: int | UnsetType | None = UNSET
    rows_days: int | UnsetType | None = UNSET


class TenantUnit(AuditedUnit, Protocol):
    """One transaction in a tenant's row."""

    async def add(self, name: str, defaults: SessionDefaults, account: VendorAccount | None) -> Tenant:
        """Insert the tenant."""
        ...

    async def lock_retention(self) -> Retention:
        """Return for how long its content and rows are kept; its row is locked. Raises NotFound."""
        ...

    async def set_retention(self, retention: Retention) -> Tenant:
        """Keep its content and rows for so long from now on."""
        ...

    async def set_keep_audio(self, choice: KeepAudio | None) -> Tenant:
        """Keep the confirmed audio of new sessions for so long; None follows the setting. Raises NotFound."""
        ...


class TenantStore(Protocol):
    """Rows of tenants."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[TenantUnit]:
        """Open a transaction for an actor in the row of its tenant."""
        ...


class Tenants:
    """Adds and changes tenants; each change and its audit entry are one transaction."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    async def add(self, name: str, defaults: SessionDefaults, change: AccountChange | None = None) -> Tenant:
        """Add a tenant, which has a vendor account of its own or shares the default one.

        Raises InvalidRequest.
        """
        account = changed_account(None, change) if change else None
        actor = Actor.operator(new_tenant_id())
        async with self._store.changing(actor) as unit:
            added = await unit.add(name, defaults, account)
            await unit.record("tenant.created", added.id, **account_facts(change))
        return added

    async def change_retention(self, tenant_id: TenantId, change: RetentionChange) -> Tenant:
        """Change how long a tenant's content and rows are kept. Raises NotFound or InvalidRequest."""
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            now = await unit.lock_retention()
            content = now.content_days if change.content_days is UNSET else change.content_days
            rows = now.rows_days if change.rows_days is UNSET else change.rows_days
            if content is not None and rows is not None and rows < content:
                raise InvalidRequest("rows cannot go before their content", field="metadata_days")
            changed = await unit.set_retention(Retention(content_days=content, rows_days=rows))
            facts = {"content_days": content, "metadata_days": rows}
            await unit.record("retention.changed", tenant_id, **facts)
        return changed

    async def change_keep_audio(self, tenant_id: TenantId, choice: KeepAudio | None) -> Tenant:
        """Change for how long the confirmed audio of a tenant's new sessions is kept. Raises NotFound."""
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            changed = await unit.set_keep_audio(choice)
            await unit.record("tenant.changed", tenant_id, keep_audio=choice)
        return changed
