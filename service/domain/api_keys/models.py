"""The principal that an API key stands for."""

from msgspec import Struct

from schemas.api_keys import Role
from schemas.tenants import KeepAudio, SessionDefaults
from service.domain.ids import Account, KeyId, TenantId


class Principal(Struct, frozen=True, kw_only=True):
    """The authenticated caller: its API key, its tenant, and the defaults for the tenant's sessions."""

    key_id: KeyId
    tenant_id: TenantId
    role: Role
    defaults: SessionDefaults
    account: Account
    keep_audio: KeepAudio | None = None  # the tenant's choice instead of the setting
