"""Re-encryption: a pass over each table encrypts with the first key the values that are under other keys.

This module decides which values are read and replaced, and which table is next. How fast the passes go and
which worker runs them is decided in service/jobs/reencryption.py.

A pass reads a table by primary key in small batches. Its cursor is a row, so that a pass continues after a
crash, and of several workers only one counts a batch. A write replaces a value only if it is still the one
that was read.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog
from asyncpg import Record
from msgspec import Struct

from schemas.encryption_keys import ReencryptionPass
from service.domain.ids import TenantId
from service.store import audio_blocks, destinations, documents, outbox, sessions
from service.store.database import Database
from service.store.encryption import DecryptionError, Keyring, head_of, key_id_of, secret_aad
from service.store.idempotency import answer_aad
from service.store.queries import sql
from service.store.tenants import account_aad
from service.store.vendor_tokens import tokens_aad

log = structlog.get_logger()

# Documents can have megabytes, and a batch is held in memory.
_ROWS_OF_BATCH = 50
# A locked row is usually free a moment later; the next pass takes care of a row that stays locked.
_TRIES = 5
# A single value with an unknown key may be damaged, so an unknown key needs two to be believed.
_ENOUGH_TO_BELIEVE = 2


class EncryptedTable(Struct, frozen=True, kw_only=True):
    """A table with encrypted columns: its statements, and the AAD of each column."""

    name: str
    read: str
    write: str
    columns: tuple[tuple[str, Callable[[str], str]], ...]


def _account_aad(tenant_id: str) -> str:
    return account_aad(TenantId(tenant_id))


ENCRYPTED_TABLES = (
    EncryptedTable(
        name="server_secrets",
        read=sql("reencryption.read_server_secrets"),
        write=sql("reencryption.write_server_secrets"),
        columns=(("value_sealed", secret_aad),),
    ),
    EncryptedTable(
        name="tenants",
        read=sql("reencryption.read_tenants"),
        write=sql("reencryption.write_tenants"),
        columns=(("account_sealed", _account_aad),),
    ),
    EncryptedTable(
        name="vendor_tokens",
        read=sql("reencryption.read_vendor_tokens"),
        write=sql("reencryption.write_vendor_tokens"),
        columns=(("tokens_sealed", tokens_aad),),
    ),
    EncryptedTable(
        name="destinations",
        read=sql("reencryption.read_destinations"),
        write=sql("reencryption.write_destinations"),
        columns=(
            ("url_sealed", destinations.url_aad),
            ("headers_sealed", destinations.headers_aad),
            ("secrets_sealed", destinations.secrets_aad),
            ("auth_sealed", destinations.auth_aad),
        ),
    ),
    EncryptedTable(
        name="sessions",
        read=sql("reencryption.read_sessions"),
        write=sql("reencryption.write_sessions"),
        columns=(
            ("details_sealed", sessions.details_aad),
            ("upload_url_sealed", sessions.upload_url_aad),
            ("transcript_sealed", sessions.transcript_aad),
            ("warnings_sealed", sessions.warnings_aad),
        ),
    ),
    EncryptedTable(
        name="documents",
        read=sql("reencryption.read_documents"),
        write=sql("reencryption.write_documents"),
        columns=(
            ("data_sealed", documents.document_aad),
            ("annotations_sealed", documents.annotations_aad),
        ),
    ),
    EncryptedTable(
        name="events",
        read=sql("reencryption.read_events"),
        write=sql("reencryption.write_events"),
        columns=(("body_sealed", outbox.event_aad),),
    ),
    EncryptedTable(
        name="audio_blocks",
        read=sql("reencryption.read_audio_blocks"),
        write=sql("reencryption.write_audio_blocks"),
        columns=(("data_sealed", audio_blocks.block_aad),),
    ),
    EncryptedTable(
        name="idempotency_keys",
        read=sql("reencryption.read_idempotency_keys"),
        write=sql("reencryption.write_idempotency_keys"),
        columns=(("answer_sealed", answer_aad),),
    ),
)
_TABLES = {table.name: table for table in ENCRYPTED_TABLES}


class _ReencryptedBatch(Struct, kw_only=True):
    """The outcome of a batch: for each row and column the head that was read and the new value."""

    changes: dict[str, list[bytes | None]]
    unreadable: dict[str, list[str]]
    unknown: Counter[str]
    known: set[str]


class ReencryptionRows:
    """Runs the passes, one batch per call."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._tried = ("", "", 0)

    async def step(self) -> bool:
        """Re-encrypt one batch of the pass that is due; false if none is due.

        No pass is due for a key after a newer key became the first: two lists of keys would undo each other's
        work.
        """
        names = list(_TABLES)
        row = await self._database.fetchrow(sql("reencryption.due"), self._keyring.first, names)
        if row is None:
            return False
        await self._reencrypt_batch(_TABLES[row["name"]])
        return True

    async def restart(self) -> None:
        """Start a new pass over every table to our first key, and forget earlier passes."""
        async with self._database.transaction() as connection:
            await connection.execute(sql("reencryption.prefer"), self._keyring.first)
            await connection.execute(sql("reencryption.forget_passes"))

    async def passes(self) -> list[ReencryptionPass]:
        """Return the progress of each table."""
        return [
            ReencryptionPass(
                table=row["table_name"],
                **{name: row[name] for name in ReencryptionPass.__struct_fields__ if name != "table"},
            )
            for row in await self._database.fetch(sql("reencryption.passes"))
        ]

    async def _reencrypt_batch(self, table: EncryptedTable) -> None:
        first = self._keyring.first
        await self._database.execute(sql("reencryption.begin"), table.name, first)
        cursor = await self._database.fetchrow(sql("reencryption.cursor"), table.name, first)
        if cursor is None:
            return  # another worker has just finished the pass
        after = cursor["after"]
        rows = await self._database.fetch(table.read, after, _ROWS_OF_BATCH, bytes.fromhex(first))
        # A batch may have megabytes: in a thread it does not block the event loop.
        batch = await asyncio.to_thread(self._encrypt_rows, table, rows)
        await self._register(batch)
        async with self._database.transaction() as connection:
            done = await connection.fetch(table.write, *_columns(batch.changes)) if batch.changes else []
            left = set(batch.changes) - {row["id"] for row in done}
            # The same batch is tried again for rows that were locked; after some tries the next pass takes
            # them.
            is_done = self._count_try(table.name, after) or not left
            advanced = await connection.fetchrow(
                sql("reencryption.advance"),
                table.name,
                first,
                after,
                rows[-1]["id"] if rows and is_done else after,
                sum(head is not None for row in done for head in batch.changes[row["id"]][::2]),
                len(left) if is_done else 0,
                sum(map(len, batch.unreadable.values())) if is_done else 0,
                is_done and len(rows) < _ROWS_OF_BATCH,
            )
        if advanced is not None and is_done:
            for column, ids in batch.unreadable.items():
                log.error("values_unreadable", column=f"{table.name}.{column}", rows=ids)

    def _count_try(self, name: str, after: str) -> bool:
        """Count a try at a batch; return whether it was the last one."""
        tries = self._tried[2] + 1 if self._tried[:2] == (name, after) else 1
        self._tried = (name, after, tries)
        return tries >= _TRIES

    def _encrypt_rows(self, table: EncryptedTable, rows: Sequence[Record]) -> _ReencryptedBatch:
        batch = _ReencryptedBatch(changes={}, unreadable={}, unknown=Counter(), known=set())
        for row in rows:
            fresh: list[bytes | None] = []
            for column, aad_of in table.columns:
                fresh += self._fresh(row, column, aad_of, batch)
            if any(fresh):
                batch.changes[row["id"]] = fresh
        return batch

    def _fresh(
        self, row: Record, column: str, aad_of: Callable[[str], str], batch: _ReencryptedBatch
    ) -> tuple[bytes | None, bytes | None]:
        """Return the head of a value under another key, and the value encrypted with the first key."""
        encrypted = row[column]
        if encrypted is None:
            return None, None
        aad = aad_of(row["owner"])
        key_id = key_id_of(encrypted)
        try:
            fresh = self._keyring.encrypt(self._keyring.decrypt(encrypted, aad), aad)
        except DecryptionError:
            batch.unreadable.setdefault(column, []).append(row["id"])
            if key_id not in self._keyring.key_ids:
                batch.unknown[key_id] += 1
            return None, None
        batch.known.add(key_id)
        return head_of(encrypted), fresh

    async def _register(self, batch: _ReencryptedBatch) -> None:
        """Register the keys of the values that were found, before any value is replaced."""
        believed = {key_id for key_id, count in batch.unknown.items() if count >= _ENOUGH_TO_BELIEVE}
        for key_id in sorted(batch.known | believed):
            await self._database.execute(sql("encryption_keys.discover"), key_id)


def _columns(changes: dict[str, list[bytes | None]]) -> list[list[object]]:
    """Turn rows into the arrays of the statements: ids, then heads and values of each column."""
    return [list(changes), *map(list, zip(*changes.values(), strict=True))]
