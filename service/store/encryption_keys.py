"""The registry of encryption keys: which sealed anything, who seals with which, which is missing."""

from collections import Counter
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from schemas.encryption import EncryptionKey, Forgotten, KeyState
from service.domain.errors import InvalidRequest, NotFound, StoreUnavailable
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring, MissingKeyError
from service.store.queries import sql

# A process says every quarter of this that it still seals; one that was killed counts no longer than this.
SEALER_SECONDS = 60.0
# Enough for "about"; at 8 KiB a page a look at each table costs a fraction of a second.
_SAMPLED_PAGES = 1000.0
_EVERY_PAGE = 1e15
_COUNT_SECONDS = 3600.0


class Sealing(Struct, frozen=True, kw_only=True):
    """Processes that seal with a key, and until when they count unless they are heard of again."""

    key_id: str
    processes: int
    until: datetime


class EncryptionKeyRows:
    """Which keys sealed anything; a key that does is registered before."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def check(self) -> None:
        """Raise MissingKeyError unless every key that sealed anything, and is not retired, is one of ours."""
        await self._sealed_so_far()

    async def begin(self) -> None:
        """Check, and register the key that seals from now on. Raises MissingKeyError.

        A process that lacks a key registers none: its list is the wrong one.
        """
        if self._keyring.first not in await self._sealed_so_far():
            await self._database.execute(sql("encryption_keys.hear"), self._keyring.first)

    async def begin_command(self) -> None:
        """Check, and register the key for a command that seals. Raises MissingKeyError or InvalidRequest.

        Beside running processes a command brings no key in: they would lack it, and none would be ready.
        """
        first = self._keyring.first
        if first in await self._sealed_so_far():
            return
        if await self._database.fetchrow(sql("encryption_keys.hear_alone"), first) is None:
            others = " and ".join(each.key_id for each in await self.others_sealing())
            raise InvalidRequest(
                f"{first}, the first of ENCRYPTION_KEYS, seals nothing here yet, and the running processes "
                f"seal with {others or 'another'}: take their list, or start them with this key first"
            )

    async def renew(self, process: UUID) -> None:
        """Check, and say that this process seals with our first key. Raises MissingKeyError."""
        await self._sealed_so_far()
        first = self._keyring.first
        async with self._database.transaction() as connection:
            await connection.execute(sql("encryption_keys.hear"), first)
            await connection.execute(sql("encryption_keys.renew_sealer"), process, first, SEALER_SECONDS)

    async def leave(self, process: UUID) -> None:
        """This process seals nothing more."""
        async with self._database.transaction() as connection:
            await connection.execute(sql("encryption_keys.hear"), self._keyring.first)
            await connection.execute(sql("encryption_keys.remove_sealer"), process)

    async def others_sealing(self) -> list[Sealing]:
        """Return the keys but our first with which processes seal now."""
        rows = await self._database.fetch(sql("encryption_keys.others_sealing"), self._keyring.first)
        return [Sealing(key_id=row["key_id"], processes=row["processes"], until=row["until"]) for row in rows]

    async def about(self) -> dict[str, Counter[str]]:
        """Return, by key, about how many values each column holds under it; quick at any size."""
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
        """Return the error with what cannot be read without the keys, and what to do."""
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
        """Retire a key under which nothing is left; with `give_up` a lost one, with all that it sealed.

        Each tenant's trail gets an entry. Raises NotFound or InvalidRequest.
        """
        if key_id == self._keyring.first:
            raise InvalidRequest(f"{key_id} is the first of ENCRYPTION_KEYS: it seals")
        async with self._database.transaction() as connection:
            if await connection.fetchrow(sql("encryption_keys.hold"), key_id) is None:
                raise NotFound(f"no key {key_id} ever sealed anything here")
            processes = await connection.fetchval(sql("encryption_keys.processes"), key_id)
            if processes:
                raise InvalidRequest(
                    f"{processes} processes seal with {key_id}: restart them with another first key "
                    f"(one that was killed counts for {SEALER_SECONDS:g} seconds)"
                )
            counts = (await _counted(connection, _EVERY_PAGE)).get(key_id, Counter())
            if counts and not give_up:
                raise InvalidRequest(
                    f"{counts.total()} values are under {key_id}: run ekabridge encryption rotate first"
                )
            retired = await connection.fetchval(sql("encryption_keys.retire"), key_id)
            facts = {"given_up": counts.total()}
            await connection.execute(sql("encryption_keys.audit_retired"), key_id, facts)
        return Forgotten(key_id=key_id, retired_at=retired, given_up=counts.total())

    async def _sealed_so_far(self) -> set[str]:
        rows = await self._database.fetch(sql("encryption_keys.registered"))
        sealed = [row["key_id"] for row in rows if row["retired_at"] is None]
        if missing := [key_id for key_id in sealed if key_id not in self._keyring.key_ids]:
            raise MissingKeyError(missing)
        return set(sealed)

    def _shown(self, key_id: str, row: Any, counts: Counter[str]) -> EncryptionKey:
        return EncryptionKey(
            key_id=key_id,
            state=self._state(key_id, row),
            first_seen_at=row["first_seen_at"] if row else None,
            retired_at=row["retired_at"] if row else None,
            processes=row["processes"] if row else 0,
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
