"""Decrypts a row for display. A value that nobody can decrypt any more must not fail the whole answer."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from service.store.database import Database, LentConnection
from service.store.encryption import DecryptionError, MissingKeyError
from service.store.queries import sql

log = structlog.get_logger()
T = TypeVar("T")

# The API's error code for a row with such a value.
UNREADABLE = "value_unreadable"


class RowDecryptor:
    """Decrypts the values of one row; `is_whole` says afterwards whether it could decrypt all of them."""

    def __init__(self, database: Database | LentConnection, table: str, object_id: str) -> None:
        self._database = database
        self._table = table
        self.id = object_id
        self.is_whole = True

    async def value(self, column: str, read: Callable[[], T], empty: T) -> T:
        """Return a decrypted value, or `empty`, with a log entry, if it is damaged or its key was retired.

        Raises MissingKeyError if the key is in use, and only this process lacks it.
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
