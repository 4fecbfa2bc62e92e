"""API keys: issued once in plain text, revoked at once on every pod."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from schemas.api_keys import ApiKey, Role
from service.domain.audit import Actor, AuditedUnit
from service.domain.ids import KeyId, TenantId


class ApiKeyUnit(AuditedUnit, Protocol):
    """One transaction in a tenant's API keys."""

    async def add(self, role: Role) -> ApiKey:
        """Insert a key; `key` is in this answer and never readable again. Raises NotFound."""
        ...

    async def revoke(self, key_id: KeyId) -> ApiKey:
        """Revoke a key. Raises NotFound."""
        ...


class ApiKeyStore(Protocol):
    """Rows of API keys."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[ApiKeyUnit]:
        """Open a transaction for an actor in the keys of its tenant."""
        ...


class ApiKeys:
    """Issues and revokes keys; each change and its audit entry are one transaction."""

    def __init__(self, store: ApiKeyStore) -> None:
        self._store = store

    async def add(self, tenant_id: TenantId, role: Role) -> ApiKey:
        """Issue a key; `key` is shown this once. Raises NotFound."""
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            added = await unit.add(role)
            await unit.record("key.created", added.id, role=role)
        return added

    async def revoke(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey:
        """Revoke a key, at once and on every pod. Raises NotFound."""
        async with self._store.changing(Actor.operator(tenant_id)) as unit:
            revoked = await unit.revoke(key_id)
            await unit.record("key.revoked", key_id)
        return revoked
