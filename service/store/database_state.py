"""Classifies and counts the errors of PostgreSQL, and remembers for a while that writes fail.

A database with a full disk, or one that accepts no writes, still answers every read. A health check that
reads would call it healthy, so the error of the last failed write is remembered until the next check.
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
    ERRORS.labels(_reason)  # a rate misses the first event of a series that does not begin with 0

OLDER_SCHEMA = "the database's schema is older than this version: run `ekabridge migrate`"
FULL = "the database's disk is full"
READ_ONLY = "the database is read-only"
# A problem that lasts fails another write long before this, if there are writes at all.
_REMEMBERED_SECONDS = 30.0

# The first class that matches decides, so a subclass must precede its base class.
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
    # PostgreSQL reports a failing disk, a damaged file or a bug of its own.
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
    """Return the reason of an error and a sentence for people; None if the error is a bug of ours."""
    for kind, reason, detail in _KINDS:
        if isinstance(error, kind):
            return reason, f"{detail} ({type(error).__name__})" if reason == "away" else detail
    return None


def store_error(error: BaseException) -> BridgeError | None:
    """Translate an error of the driver; None for a bug of ours, which must reach the log as it is."""
    if isinstance(error, asyncpg.CharacterNotInRepertoireError):
        # PostgreSQL has no text with a NUL; a path or a query of a client may have one.
        return InvalidRequest("a text holds a character that cannot be stored")
    found = classify(error)
    return None if found is None else StoreUnavailable(found[1])


class DatabaseState:
    """Remembers, for one process, that the database lately refused a write."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._unwritable: tuple[float, str] | None = None

    def note(self, error: BaseException) -> None:
        """Count an error of the driver, and remember it if only writes fail with it."""
        found = classify(error)
        if found is None:
            return
        reason, detail = found
        ERRORS.labels(reason).inc()
        if reason in {"full", "read_only"}:
            self._unwritable = self._now(), detail

    def latest(self) -> str | None:
        """Return why writes fail; None if no write failed for it within the last half minute."""
        if self._unwritable is None or self._now() >= self._unwritable[0] + _REMEMBERED_SECONDS:
            return None
        return self._unwritable[1]
