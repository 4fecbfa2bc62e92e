"""The registry of encryption keys: a process learns from it that it lacks a key that values need."""

from collections import Counter
from typing import Any

from schemas.encryption_keys import EncryptionKey, Forgotten, KeyState
from service.domain.errors import InvalidRequest, NotFound, StoreUnavailable
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring, MissingKeyError
from service.store.queries import sql

# A sample of 1000 pages of 8 KiB per table takes a fraction of a second.
_SAMPLED_PAGES = 1000.0
_EVERY_PAGE = 1e15
_COUNT_SECONDS = 3600.0


class EncryptionKeyRows:
    """Rows of keys; each key is registered before it encrypts its first value."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def check(self) -> bool:
        """Return whether our first key is registered.

        Raises MissingKeyError unless we have every key that encrypted anything and is not retired.
        """
        return self._keyring.first in await self._registered()

    async def begin(self) -> None:
        """Check, and register our first key, which encrypts from now on. Raises MissingKeyError.

        A process that lacks a key registers none: its list is the wrong one.
        """
        if not await self.check():
            await self.register_first()

    async def begin_command(self) -> None:
        """Check, and register our first key if it is the only one. Raises MissingKeyError or InvalidRequest.

        A command introduces no key beside others: running processes would lack it, and none would be ready.
        """
        registered = await self._registered()
        if registered and self._keyring.first not in registered:
            raise InvalidRequest(
                f"{self._keyring.first}, the first of ENCRYPTION_KEYS, encrypts nothing here yet, but "
                f"{' and '.join(registered)} does: start serve and worker with this list first, or use theirs"
            )
        if not registered:
            await self.register_first()

    async def about(self) -> dict[str, Counter[str]]:
        """Estimate from a sample, by key, the number of values in each column; fast at any size."""
        async with self._database.connection() as connection:
            return await _counted(connection, _SAMPLED_PAGES)

    async def keys(self) -> list[EncryptionKey]:
        """Return every key with exact counts; looks at every value."""
        async with self._database.connection() as connection:
            counts = await _counted(connection, _EVERY_PAGE)
        rows = {row["key_id"]: row for row in await self._database.fetch(sql("encryption_keys.registered"))}
        ids = dict.fromkeys([*self._keyring.key_ids, *rows, *counts])
        return [self._shown(key_id, rows.get(key_id), counts.get(key_id, Counter())) for key_id in ids]

    async def explained(self, error: MissingKeyError) -> MissingKeyError:
        """Add to the error the values that are unreadable without the keys, and the remedy."""
        try:
            about = await self.about()
        except StoreUnavailable:
            return error
        counts: Counter[str] = sum((about.get(key_id, Counter()) for key_id in error.key_ids), Counter())
        places = ", ".join(f"{place} {count}" for place, count in sorted(counts.items()))
        detail = (
            f"and about {counts.total()} values cannot be read without it ({places or 'none was found'}): "
            "put it back at the end of the list; only if it is lost for good, "
            f"ekabridge encryption forget {error.key_ids[0]} --give-up"
        )
        return MissingKeyError(error.key_ids, detail)

    async def forget(self, key_id: str, *, give_up: bool) -> Forgotten:
        """Retire a key that encrypts no value; with `give_up` also a lost key, whose values stay unreadable.

        The audit trail of each tenant gets an entry. Raises NotFound or InvalidRequest.
        """
        if key_id == self._keyring.first:
            raise InvalidRequest(f"{key_id} is the first of ENCRYPTION_KEYS: it encrypts")
        async with self._database.transaction() as connection:
            if await connection.fetchrow(sql("encryption_keys.hold"), key_id) is None:
                raise NotFound(f"no key {key_id} ever encrypted anything here")
            counts = (await _counted(connection, _EVERY_PAGE)).get(key_id, Counter())
            if counts and not give_up:
                raise InvalidRequest(
                    f"{counts.total()} values are under {key_id}: run ekabridge encryption rotate first"
                )
            await connection.execute(sql("encryption_keys.forget_tokens"), key_id)
            retired = await connection.fetchval(sql("encryption_keys.retire"), key_id)
            facts = {"given_up": counts.total()}
            await connection.execute(sql("encryption_keys.audit_retired"), key_id, facts)
        return Forgotten(key_id=key_id, retired_at=retired, given_up=counts.total())

    async def _registered(self) -> list[str]:
        rows = await self._database.fetch(sql("encryption_keys.registered"))
        registered = [row["key_id"] for row in rows if row["retired_at"] is None]
        if missing := [key_id for key_id in registered if key_id not in self._keyring.key_ids]:
            raise MissingKeyError(missing)
        return registered

    async def register_first(self) -> None:
        """Register our first key; `check` has said that it is not registered."""
        await self._database.execute(sql("encryption_keys.register"), self._keyring.first)

    def _shown(self, key_id: str, row: Any, counts: Counter[str]) -> EncryptionKey:
        return EncryptionKey(
            key_id=key_id,
            state=self._state(key_id, row),
            first_seen_at=row["first_seen_at"] if row else None,
            retired_at=row["retired_at"] if row else None,
            values=counts.total(),
            places=dict(counts),
        )

    def _state(self, key_id: str, row: Any) -> KeyState:
        if key_id == self._keyring.first:
            return "first"
        if row is not None and row["retired_at"] is not None:
            return "retired"
        if key_id not in self._keyring.key_ids:
            return "missing"
        return "old" if row is not None else "unused"


async def _counted(connection: LentConnection, pages: float) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for row in await connection.fetch(sql("encryption_keys.count"), pages, timeout=_COUNT_SECONDS):
        found.setdefault(row["key_id"], Counter())[row["place"]] = row["count"]
    return found
