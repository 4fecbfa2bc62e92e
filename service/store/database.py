"""The pool of PostgreSQL connections; it translates the driver's errors to our own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
from asyncpg import Connection, Record
from asyncpg.pool import PoolConnectionProxy

from service.concurrency.fair_semaphore import FairSemaphore
from service.domain.errors import StoreUnavailable
from service.domain.sessions.change_polling import tenant_quota
from service.domain.vendor_calls import CALLING_TENANT
from service.store.database_metrics import CONNECTIONS, DATABASE_WAIT
from service.store.database_state import OLDER_SCHEMA, READ_ONLY, DatabaseState, store_error
from service.store.queries import sql

if TYPE_CHECKING:  # the stubs make it generic; the class itself is not
    LentConnection = PoolConnectionProxy[Record]
else:
    LentConnection = PoolConnectionProxy

# `ekabridge doctor` compares it with the server's own statement_timeout (service/diagnostics/environment.py).
STATEMENT_TIMEOUT_SECONDS = 15.0
_ACQUIRE_TIMEOUT_SECONDS = 5.0
_IDLE_SECONDS = 300.0
_USED, _IDLE = CONNECTIONS.labels("used"), CONNECTIONS.labels("idle")


async def _prepare(connection: "Connection[Record]") -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + msgspec.json.encode(value)  # the version byte of the binary format


def _decode_jsonb(value: bytes) -> Any:
    return msgspec.json.decode(value[1:])


async def _keep(_: "Connection[Record]") -> None:
    """Save the round trip of a reset: we set no connection state (docs/libraries.md#pool-reset)."""


class Database:
    """A pool that connects on demand, so that a process can start before its database."""

    def __init__(self, url: str, *, size: int, statement_cache_size: int) -> None:
        self._url = url
        self._size = size
        self._statement_cache_size = statement_cache_size
        self._pool: asyncpg.Pool[Record] | None = None
        # The pool serves in the order of arrival; with turns, hundreds of one tenant's queries delay another
        # tenant's by one query. Calls without a tenant, such as lookups of keys, have turns of their own.
        self._turns = FairSemaphore(size, max_per_holder=tenant_quota(size))
        self._longest_wait_seconds = 0.0
        self._state = DatabaseState()
        # Whether a statement on our tables succeeded since the process started.
        self.was_reached = False

    async def open(self) -> None:
        """Make the pool, without a connection yet."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._size,
            command_timeout=STATEMENT_TIMEOUT_SECONDS,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            statement_cache_size=self._statement_cache_size,
            timeout=_ACQUIRE_TIMEOUT_SECONDS,
            init=_prepare,
            reset=_keep,
        )

    async def close(self) -> None:
        """Close every connection; those in use get 5 s to finish."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(_ACQUIRE_TIMEOUT_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def longest_wait(self) -> float:
        """Return the longest wait for a connection in seconds since the last call."""
        longest, self._longest_wait_seconds = self._longest_wait_seconds, 0.0
        return longest

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[LentConnection]:
        """Lend a connection; raises StoreUnavailable if none is free in time or the connection breaks."""
        if self._pool is None:
            raise StoreUnavailable("the database is not open")
        asked, is_lent = time.monotonic(), False
        try:
            async with (
                self._turns.permit(CALLING_TENANT.get(), max_wait_seconds=_ACQUIRE_TIMEOUT_SECONDS),
                self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_SECONDS) as connection,
            ):
                is_lent = True
                self._lend(time.monotonic() - asked)
                yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            self._state.note(error)
            is_older = isinstance(error, asyncpg.UndefinedTableError) and await self._has_revision()
            ours = StoreUnavailable(OLDER_SCHEMA) if is_older else store_error(error)
            if ours is None:
                raise
            raise ours from error
        finally:
            if is_lent:
                _USED.dec()
            else:
                DATABASE_WAIT.observe(time.monotonic() - asked)
            _IDLE.set(self._pool.get_idle_size())

    def _lend(self, waited_seconds: float) -> None:
        self._longest_wait_seconds = max(self._longest_wait_seconds, waited_seconds)
        DATABASE_WAIT.observe(waited_seconds)
        _USED.inc()

    async def _has_revision(self) -> bool:
        """Return whether the database was ever migrated."""
        row = await self.fetchrow(sql("database.has_revision"))
        return row is not None and bool(row["has_revision"])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LentConnection]:
        """Lend a connection inside a transaction, which commits if the block raises nothing."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, *arguments: Any) -> list[Record]:
        """Run one statement and return its rows."""
        async with self.connection() as connection:
            found: list[Record] = await connection.fetch(query, *arguments)
        self.was_reached = True
        return found

    async def fetchrow(self, query: str, *arguments: Any) -> Record | None:
        """Run one statement and return its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *arguments)

    async def execute(self, query: str, *arguments: Any) -> None:
        """Run one statement."""
        async with self.connection() as connection:
            await connection.execute(query, *arguments)
        self.was_reached = True

    async def revision(self) -> str | None:
        """Return the revision of the schema."""
        row = await self.fetchrow(sql("database.revision"))
        return row["version_num"] if row else None

    async def clock(self, steady: Callable[[], float]) -> tuple[float, float, float]:
        """Return the database's time, and a steady clock right before and right after the question.

        The wait for a connection lies before both.
        """
        async with self.connection() as connection:
            asked = steady()
            row = await connection.fetchrow(sql("database.clock"))
            answered = steady()
        if row is None:  # pragma: no cover - the statement always has a row
            raise StoreUnavailable("the database said nothing of its clock")
        return float(row["now"]), asked, answered

    async def ping(self) -> str:
        """Return `ok`, or why writes fail although the database answers reads.

        Raises StoreUnavailable if the database does not answer or lacks our schema.
        """
        row = await self.fetchrow(sql("database.ping"))
        self.was_reached = True
        if row is not None and row["is_read_only"]:
            return READ_ONLY
        return self._state.latest() or "ok"


def storable(text: str | None) -> str | None:
    """Remove NUL characters. PostgreSQL refuses a text with one, and a result must not be lost for that."""
    return text.replace("\0", "") if text else text
