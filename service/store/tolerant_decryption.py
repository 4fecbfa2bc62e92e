"""Values of a row that is shown: one that nobody can decrypt any more must not cost the whole answer."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from service.store.database import Database, LentConnection
from service.store.encryption import DecryptionError, MissingKeyError
from service.store.queries import sql

log = structlog.get_logger()
T = TypeVar("T")

# What the API calls it, where a row has a place to say so.
UNREADABLE = "value_unreadable"


class RowDecryptor:
    """Opens the values of one row; `is_whole` says afterwards whether all of them could be."""

    def __init__(self, database: Database | LentConnection, table: str, object_id: str) -> None:
        self._database = database
        self._table = table
        self.id = object_id
        self.is_whole = True

    async def value(self, column: str, read: Callable[[], T], empty: T) -> T:
        """Read a value; log one that was damaged, or whose key was given up, and return `empty` for it.

        Raises MissingKeyError when it is only here that the key is missing.
        """
        try:
            return read()
        except DecryptionError as error:
            if isinstance(error, MissingKeyError) and await self._is_held(error):
                raise
            self.is_whole = False
            log.error("value_unreadable", column=f"{self._table}.{column}", row=self.id)
            return empty

    async def _is_held(self, error: MissingKeyError) -> bool:
        return await self._database.fetchrow(sql("encryption_keys.is_held"), *error.key_ids) is not None
