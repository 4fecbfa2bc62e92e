"""Accounts at EkaScribe: calls are made with the default one or with a tenant's own."""

import hashlib
import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from service.domain.errors import InvalidRequest, VendorRefused
from service.domain.ids import DEFAULT_ACCOUNT, Account, Lease, TenantId


class TokenState(Struct, frozen=True, kw_only=True):
    """An account's tokens as all replicas see them; `generation` grows with each login or refresh."""

    tokens: bytes | None
    generation: int
    is_leased: bool


class TokenStore(Protocol):
    """Vendor tokens that all replicas share, and the right to get new ones."""

    async def read(self, account: Account) -> TokenState:
        """Return the tokens of an account."""
        ...

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        """Acquire the lease to replace the tokens of a generation; False if held or replaced already."""
        ...

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        """Store new tokens; False when the lease was lost meanwhile."""
        ...

    async def release(self, account: Account, lease: Lease) -> None:
        """Release the lease."""
        ...


# A change counts within this time in every process; a renewal of tokens looks at once.
KEPT_SECONDS = 30.0
_TENANT_ID = re.compile(r"ten_[0-9a-z]{24}")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
# They never stand in a header, and people may have chosen them.
_IN_BODY_ONLY = frozenset({"username", "password"})


class Secret:
    """A value that must not be shown by accident: its fields are never printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class Credentials(Secret, Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How we are known at the vendor: a token, a client, or a user of a server on premises; or nothing.

    A token is sent as it is, without a login (docs/vendor.md#static-token).
    """

    token: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    sharing_key: str | None = None
    username: str | None = None
    password: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash that differs between credentials and shows nothing of them."""
        values = [self.token, self.client_id, self.client_secret, self.sharing_key]
        # Only where there is a user: a replica of an older version computes the same for all others, and two
        # that differ would each throw away the tokens that the other one got.
        if self.username is not None:
            values += [self.username, self.password]
        return hashlib.sha256(msgspec.json.encode(values)).hexdigest()

    @property
    def identity(self) -> tuple[str, str] | None:
        """The kind and name of the client or user that logs in; None for a token, which names nobody."""
        if self.client_id is not None:
            return "client", self.client_id
        return None if self.username is None else ("user", self.username)

    @property
    def are_given(self) -> bool:
        """Whether there is anything to be known by."""
        return self.token is not None or self.identity is not None


class VendorAccount(Secret, Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account at the vendor: how we log in, and the keys that its webhooks are signed with."""

    credentials: Credentials
    webhook_secrets: tuple[str, ...] = ()


class AccountChange(Secret, Struct, frozen=True, kw_only=True):
    """An operator's change of a tenant's own account; a field of None stays as it is."""

    credentials: Credentials | None = None
    webhook_secrets: tuple[str, ...] | None = None


class AccountStore(Protocol):
    """Rows of tenants' own accounts."""

    async def own(self, tenant_id: TenantId) -> VendorAccount | None:
        """A tenant's own account; None when it shares the default one, or is unknown."""
        ...


class Accounts:
    """Finds accounts; a tenant's is kept for a while, so that a webhook costs no second look.

    That a tenant has none is not kept: one that just got its account works at once.
    """

    def __init__(self, *, default: VendorAccount, store: AccountStore, time: Callable[[], float]) -> None:
        self._default = default
        self._store = store
        self._time = time
        self._kept: dict[Account, tuple[VendorAccount, float]] = {}

    async def find(self, account: Account, *, fresh: bool = False) -> VendorAccount | None:
        """Return an account, or None when there is none of that name. Raises StoreUnavailable."""
        if account == DEFAULT_ACCOUNT:
            return self._default
        kept = self._kept.get(account)
        if kept is not None and not fresh and self._time() < kept[1]:
            return kept[0]
        # A webhook's address may hold any text: only one in the form of a tenant's id is looked up.
        found = await self._store.own(TenantId(account)) if _TENANT_ID.fullmatch(account) else None
        if found is None:
            self._kept.pop(account, None)
        else:
            self._kept[account] = (found, self._time() + KEPT_SECONDS)
        return found

    async def credentials(self, account: Account, *, fresh: bool = False) -> Credentials:
        """Return how we are known there; `fresh`: as of now. Raises VendorRefused without an account."""
        found = await self.find(account, fresh=fresh)
        if found is None:
            raise VendorRefused(
                "this tenant's own EkaScribe account was taken away", status=401, vendor_code=None
            )
        return found.credentials

    async def webhook_secrets(self, account: Account) -> tuple[str, ...] | None:
        """Return the keys that the account's webhooks are signed with; None when there is no account."""
        found = await self.find(account)
        return None if found is None else found.webhook_secrets


def changed_account(current: VendorAccount | None, change: AccountChange) -> VendorAccount:
    """Return the account after a change. Raises InvalidRequest, which names no value."""
    account = VendorAccount(
        credentials=change.credentials or (current.credentials if current else Credentials()),
        webhook_secrets=(current.webhook_secrets if current else ())
        if change.webhook_secrets is None
        else change.webhook_secrets,
    )
    _check_account(account)
    return account


def account_facts(change: AccountChange | None) -> dict[str, Any]:
    """Return what the audit trail says of a change: which fields it gives, none of their values."""
    if change is None:
        return {}
    facts: dict[str, Any] = {}
    if change.credentials is not None:
        identity = change.credentials.identity
        facts["credentials"] = "token" if identity is None else identity[0]
    if change.webhook_secrets is not None:
        facts["webhook_secrets"] = len(change.webhook_secrets)
    return facts


def _check_account(account: VendorAccount) -> None:
    own = account.credentials
    for field, value in msgspec.structs.asdict(own).items():
        if value is None:
            continue
        if field in _IN_BODY_ONLY:
            if not value or not value.isprintable():
                raise InvalidRequest(f"{field} must be printable text, and not empty", field=field)
        elif not _PRINTABLE.fullmatch(value):
            raise InvalidRequest(f"{field} must be printable ASCII text, and not empty", field=field)
    if not all(_PRINTABLE.fullmatch(secret) for secret in account.webhook_secrets):
        raise InvalidRequest(
            "a webhook secret must be printable ASCII text, and not empty", field="webhook_secrets"
        )
    _check_together(own)


def _check_together(own: Credentials) -> None:
    has_client = bool(own.client_id or own.client_secret or own.sharing_key)
    has_user = bool(own.username or own.password)
    if own.token is not None and (has_client or has_user):
        raise InvalidRequest("a token goes alone, without a client or a user", field="token")
    if has_client and has_user:
        raise InvalidRequest("username and password go alone, without a client", field="username")
    if (own.username is None) != (own.password is None):
        raise InvalidRequest("username and password go together: one is missing", field="username")
    if (own.client_id is None) != (own.client_secret is None):
        raise InvalidRequest("client id and client secret go together: one is missing", field="client_id")
    if own.sharing_key is not None and own.client_id is None:
        raise InvalidRequest("a sharing key goes with a client id and secret", field="sharing_key")
    if not own.are_given:
        raise InvalidRequest(
            "an account needs a token, a client id and secret, or a username and password", field="token"
        )
