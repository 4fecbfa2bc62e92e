"""What PostgreSQL cannot do at the moment: read from its errors, counted, and remembered for a while.

A full disk and a database that takes no writes answer every read as if nothing were wrong, so that health
would call them well: what a write was told has to be remembered until the next look.
"""

import time
from collections.abc import Callable
from typing import Literal

import asyncpg
from prometheus_client import Counter

from service.domain.errors import BridgeError, InvalidRequest, StoreUnavailable

Reason = Literal["away", "full", "exhausted", "read_only", "interrupted", "broken", "unfit"]

ERRORS = Counter(
    "ekabridge_database_errors",
    "Statements that PostgreSQL did not carry out, by why; none is a mistake in the statement.",
    ("reason",),
)
_REASONS: tuple[Reason, ...] = (
    "away", "full", "exhausted", "read_only", "interrupted", "broken", "unfit",
)  # fmt: skip
for _reason in _REASONS:
    ERRORS.labels(_reason)  # from 0 on: a rate does not see the first of a series that begins with it

OLDER_SCHEMA = "the database's schema is older than this version: run `ekabridge migrate`"
FULL = "the database's disk is full"
READ_ONLY = "the database is read-only"
# While there are writes, a trouble that lasts shows anew long before this.
_REMEMBERED_SECONDS = 30.0

# The first kind that fits decides: a narrower one stands before the kind that it is one of.
_KINDS: tuple[tuple[type[BaseException], Reason, str], ...] = (
    (asyncpg.InvalidCatalogNameError, "unfit", "the database of DATABASE_URL does not exist"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "unfit",
        "the database refuses the user or the password",
    ),
    (asyncpg.InsufficientPrivilegeError, "unfit", "the database's user may not use our tables"),
    (asyncpg.UndefinedTableError, "unfit", "the database has no schema: run `ekabridge migrate`"),
    (asyncpg.UndefinedColumnError, "unfit", OLDER_SCHEMA),
    (asyncpg.DiskFullError, "full", FULL),
    (asyncpg.ReadOnlySQLTransactionError, "read_only", READ_ONLY),
    (asyncpg.TooManyConnectionsError, "away", "the database has no connection left for us"),
    (asyncpg.InsufficientResourcesError, "exhausted", "the database is short of memory or another resource"),
    (asyncpg.TransactionRollbackError, "interrupted", "the database gave a transaction up for another"),
    (asyncpg.LockNotAvailableError, "interrupted", "the database did not get a lock in time"),
    (asyncpg.QueryCanceledError, "interrupted", "the database stopped a statement that took too long"),
    # Its disk fails, a file is damaged, or it met a bug of its own.
    (asyncpg.PostgresSystemError, "broken", "the database failed by itself"),
    (asyncpg.InternalServerError, "broken", "the database failed by itself"),
    (OSError, "away", "the database cannot be reached"),
    (TimeoutError, "away", "the database cannot be reached"),
    (asyncpg.PostgresConnectionError, "away", "the database cannot be reached"),
    (asyncpg.OperatorInterventionError, "away", "the database cannot be reached"),
    (asyncpg.InterfaceError, "away", "the database cannot be reached"),
    (asyncpg.InternalClientError, "away", "the database cannot be reached"),
)


def classify(error: BaseException) -> tuple[Reason, str] | None:
    """Return why PostgreSQL did not do it, and the sentence that says so; None for a bug of ours."""
    for kind, reason, detail in _KINDS:
        if isinstance(error, kind):
            return reason, f"{detail} ({type(error).__name__})" if reason == "away" else detail
    return None


def store_error(error: BaseException) -> BridgeError | None:
    """Return our error for one of the driver's; None for a bug, which must be seen as one."""
    if isinstance(error, asyncpg.CharacterNotInRepertoireError):
        # A NUL in a path or a query: PostgreSQL has no text that holds one.
        return InvalidRequest("a text holds a character that cannot be stored")
    found = classify(error)
    return None if found is None else StoreUnavailable(found[1])


class DatabaseState:
    """What was lately heard of one database, by this process."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._unwritable: tuple[float, str] | None = None

    def note(self, error: BaseException) -> None:
        """Count an error of the driver's, and remember one that only those who write are told."""
        found = classify(error)
        if found is None:
            return
        reason, detail = found
        ERRORS.labels(reason).inc()
        if reason in {"full", "read_only"}:
            self._unwritable = self._now(), detail

    def latest(self) -> str | None:
        """Return why nothing can be written, None if no write was told so within the last half minute."""
        if self._unwritable is None or self._now() >= self._unwritable[0] + _REMEMBERED_SECONDS:
            return None
        return self._unwritable[1]
