"""The audit trail of changes: an entry commits in the transaction of the change that it records.

Were the two separate commits, the second could fail: a destination would exist whose secret nobody has seen.
"""

from typing import Any, Protocol, Self

from msgspec import Struct

from service.domain.api_keys.models import Principal
from service.domain.ids import TenantId

_OPERATOR = "cli"


class Actor(Struct, frozen=True):
    """The author of a change in one tenant's rows, by the name that the audit trail shows."""

    tenant_id: TenantId
    name: str

    @classmethod
    def key(cls, principal: Principal) -> Self:
        """Return the API key that a request came with."""
        return cls(principal.tenant_id, principal.key_id)

    @classmethod
    def operator(cls, tenant_id: TenantId) -> Self:
        """Return the operator at the command line."""
        return cls(tenant_id, _OPERATOR)


class AuditedUnit(Protocol):
    """One transaction in the rows of an actor's tenant; it commits when its block ends without an error."""

    async def record(self, action: str, object_id: str, **facts: Any) -> None:
        """Add an audit entry to the transaction; the facts hold no content."""
        ...
