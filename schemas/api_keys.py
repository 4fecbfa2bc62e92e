"""API keys and their roles."""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

Role = Literal["emr", "admin"]


class ApiKey(Struct, kw_only=True, frozen=True):
    """An API key's record; `key` itself is only in the response that created it."""

    id: str
    tenant_id: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None
    key: str | UnsetType = UNSET
