"""Access tokens of vendor accounts, encrypted, and the lease on the right to renew them."""

from service.domain.ids import Account, Lease
from service.domain.vendor_accounts import TokenState
from service.store.database import Database
from service.store.encryption import Keyring
from service.store.queries import sql


def tokens_aad(account: str) -> str:
    """Return the AAD that binds vendor tokens to their account."""
    return f"vendor_tokens:{account}"


class VendorTokenRows:
    """Encrypted vendor tokens, and the lease on the right to get new ones."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def read(self, account: Account) -> TokenState:
        """Return the tokens of an account."""
        row = await self._database.fetchrow(sql("vendor_tokens.get"), account)
        if row is None:
            return TokenState(tokens=None, generation=0, is_leased=False)
        encrypted = row["tokens_sealed"]
        return TokenState(
            tokens=self._keyring.decrypt(encrypted, tokens_aad(account)) if encrypted else None,
            generation=row["generation"],
            is_leased=bool(row["is_leased"]),
        )

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        """Lease the right to replace tokens of a generation; false if another process holds or used it."""
        row = await self._database.fetchrow(sql("vendor_tokens.lease"), account, lease, seconds, generation)
        return row is not None

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        """Store new tokens; false if the lease was lost, and then the tokens of its new holder stay."""
        row = await self._database.fetchrow(
            sql("vendor_tokens.store"),
            account,
            lease,
            self._keyring.encrypt(tokens, tokens_aad(account)),
        )
        return row is not None

    async def release(self, account: Account, lease: Lease) -> None:
        """Release the lease."""
        await self._database.execute(sql("vendor_tokens.release"), account, lease)
