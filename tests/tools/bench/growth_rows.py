"""Fills a database with the years of an installation: nearly everything settled, as much live as on any day.

An installation that takes `PER_DAY` dictations a day: more rows are more days of it. So what is live is as
much however many rows there are, and what is old is what grows. Rows that are read through the API are real
ones, made beforehand through the API; these here lie around them. Indexes and constraints are taken away for
the fill and made again after it, as `pg_dump` does.
"""

import asyncio
from collections.abc import Iterable
from itertools import chain

import asyncpg
from msgspec import Struct

PER_DAY = 2_500
TENANTS = 200
AT_ONCE = 2
# Up to which of the newest are: not ended, being made, owed an end call, to be delivered, paused, dead.
UNENDED, PROCESSING, OWED, PENDING, PAUSED, DEAD = 60, 160, 170, 270, 370, 470
# So many of the newest have every row that belongs to a session; of the older ones half have none but their
# own, so that ten million fit.
WHOLE = 100_000
_KEEP_CONTENT_DAYS = 30

_TENANTS = f"""
CREATE TABLE growth_tenants (k integer PRIMARY KEY, id text NOT NULL);
INSERT INTO growth_tenants
SELECT k, 'ten_' || substr(md5('t' || k), 1, 24) FROM generate_series(1, {TENANTS - 1}) k;
INSERT INTO tenants (id, name, keep_content_days, keep_metadata_days)
SELECT id, 'growth', CASE WHEN k % 2 = 1 THEN {_KEEP_CONTENT_DAYS} END, CASE WHEN k % 4 = 1 THEN 7300 END
FROM growth_tenants;
INSERT INTO growth_tenants SELECT 0, id FROM tenants WHERE name <> 'growth' LIMIT 1;
INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed, enabled)
SELECT 'dst_' || n || substr(md5('x' || k), 1, 23), id, '\\x00', '{{}}', '{{}}', '\\x00', n < 2
FROM growth_tenants, generate_series(0, 2) n;
ANALYZE growth_tenants, tenants, destinations;
"""

# The newest is 1; the largest tenant has 7 % of all, the smallest a quarter of one.
_EACH = f"""
WITH each AS (
    SELECT n, t.k, t.id AS tenant_id, 'ses_' || substr(md5('s' || n), 1, 24) AS session_id,
           'doc_' || substr(md5('d' || n), 1, 24) AS document_id,
           'dst_' || CASE WHEN n > {PENDING} AND n <= {PAUSED} THEN 2 WHEN n % 1000 = 7 THEN 1 ELSE 0 END
               || substr(md5('x' || t.k), 1, 23) AS destination_id,
           now() - n * interval '1 day' / {PER_DAY} AS at, n <= {UNENDED} AS is_unended,
           n > {UNENDED} AND n <= {OWED} AS is_processing,
           t.k % 2 = 1 AND n > {PER_DAY * _KEEP_CONTENT_DAYS} AS is_erased,
           n <= {WHOLE} OR n / 100 % 2 = 0 AS is_whole,
           CASE WHEN n > {WHOLE} AND n / 100 % 2 = 1 THEN 'completed'
                ELSE CASE n % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'expired' WHEN 2 THEN 'partial'
                                  WHEN 3 THEN 'cancelled' ELSE 'completed' END END AS ending
    FROM generate_series($1::integer, 1, -1) n
    JOIN growth_tenants t ON t.k = floor({TENANTS} * power((hashint4(n) & 65535) / 65536.0, 2))::integer
), told AS (
    SELECT *, ending IN ('completed', 'partial') AS has_document FROM each
    WHERE n > {OWED} AND ending <> 'cancelled' AND is_whole
)
"""
_DELIVERY = f"""
CASE WHEN n <= {PENDING} THEN 'pending' WHEN n <= {PAUSED} THEN 'paused'
     WHEN n <= {DEAD} OR n % 100 = 50 THEN 'dead' WHEN n % 2 = 0 THEN 'filed' ELSE 'delivered' END
"""

_ROWS = {
    "sessions": f"""
INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages,
                      details_sealed, patient_id_hash, reference_hash, upload_url_sealed, transcript_sealed,
                      created_at, expires_at, ended_at, settled_at, erased_at, owed, owed_next_at)
{_EACH}
SELECT session_id, tenant_id, 'default',
       CASE WHEN is_unended THEN CASE n % 2 WHEN 0 THEN 'created' ELSE 'recording' END
            WHEN is_processing THEN 'processing' ELSE ending END,
       CASE n % 50 WHEN 0 THEN 'stream' ELSE 'chunked' END, 'dictation', 'pro',
       '{{eka_emr_template}}', '{{en}}',
       CASE WHEN NOT is_erased THEN decode(md5(n::text), 'hex') END,
       CASE WHEN NOT is_erased THEN sha256(('p' || n / 4)::bytea) END,
       CASE WHEN NOT is_erased THEN sha256(('r' || n)::bytea) END,
       CASE WHEN NOT is_erased THEN decode(md5(n::text), 'hex') END,
       CASE WHEN NOT is_erased AND n > {OWED} THEN decode(repeat(md5(n::text), 4), 'hex') END,
       at, at + interval '1 day' + CASE WHEN n <= 30 THEN interval '-1 day' ELSE '0' END,
       CASE WHEN NOT is_unended AND ending <> 'expired' THEN at + interval '20 seconds' END,
       CASE WHEN n > {OWED} THEN at + interval '30 seconds' END,
       CASE WHEN is_erased THEN at + interval '{_KEEP_CONTENT_DAYS} days' END,
       CASE WHEN n > {PROCESSING} AND n <= {OWED} THEN 'end' END,
       CASE WHEN n > {PROCESSING} AND n <= {OWED} THEN at END
FROM each
""",
    "chunks": f"""
INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name,
                    stored_at)
{_EACH}
SELECT session_id, 0, tenant_id, 'stored', sha256(n::text::bytea), 100000, 'audio/wav', 'audio_0.wav', at
FROM each WHERE is_whole AND NOT is_erased AND n % 50 <> 0
""",
    "stream_connections": f"""
INSERT INTO stream_connections (lease, session_id, opened_at, closed_at, cause, code, frames, bytes)
{_EACH}
SELECT gen_random_uuid(), session_id, at, at, 'client', 1000, 100, 320000
FROM each WHERE is_whole AND NOT is_erased AND n % 50 = 0
""",
    "webhook_events": f"""
INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes, received_at)
{_EACH}
SELECT 'default', session_id, ending, 'ended', 'protocol', sha256(n::text::bytea), 300, at
FROM told WHERE NOT is_erased
""",
    "fetches": f"""
INSERT INTO fetches (tenant_id, session_id, template_id, status, outcome, next_at, attempts, settled_at)
{_EACH}
SELECT tenant_id, session_id, 'eka_emr_template', CASE WHEN is_processing THEN 'pending' ELSE 'settled' END,
       CASE WHEN NOT is_processing THEN ending END, CASE WHEN is_processing THEN at END, 1,
       CASE WHEN NOT is_processing THEN at END
FROM each WHERE is_whole AND NOT is_unended AND NOT is_erased AND ending <> 'expired'
""",
    "documents": f"""
INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, type, status,
                       data_sealed, received_at, released_at, lineage)
{_EACH}
SELECT document_id, tenant_id, session_id, 'eka_emr_template', document_id, 1, 'json', 'success',
       CASE WHEN NOT is_erased THEN decode(repeat(md5(n::text), 8), 'hex') END, at, at, document_id
FROM told WHERE has_document
""",
    "events": f"""
INSERT INTO events (id, tenant_id, session_id, document_id, type, template_id, body_sealed, created_at)
OVERRIDING SYSTEM VALUE
{_EACH}
SELECT 1000000 + $1 - n, tenant_id, session_id, CASE WHEN has_document THEN document_id END,
       CASE WHEN has_document THEN 'document.ready' ELSE 'session.' || ending END,
       CASE WHEN has_document THEN 'eka_emr_template' END,
       CASE WHEN NOT is_erased THEN decode(repeat(md5(n::text), 8), 'hex') END, at
FROM told
""",
    "deliveries": f"""
INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, destination_id, type, status,
                        attempts, next_at, reason, created_at, settled_at, lineage, version)
{_EACH}
SELECT 'msg_' || substr(md5('m' || n), 1, 24), tenant_id, 1000000 + $1 - n, session_id,
       CASE WHEN has_document THEN document_id END, destination_id,
       CASE WHEN has_document THEN 'document.ready' ELSE 'session.' || ending END, {_DELIVERY}, 1,
       CASE WHEN n <= {PENDING} THEN at END,
       CASE WHEN n > {PENDING} AND n <= {PAUSED} THEN 'destination_disabled' WHEN n > {PAUSED} AND n <= {DEAD}
            THEN 'http_500' WHEN n % 100 = 50 AND n > {DEAD} THEN 'superseded' END,
       at, CASE WHEN n > {PAUSED} THEN at END, CASE WHEN has_document THEN document_id END,
       CASE WHEN has_document THEN 1 END
FROM told
""",
    "attempts": f"""
INSERT INTO attempts (delivery_id, at, status_code, duration_ms)
{_EACH}
SELECT 'msg_' || substr(md5('m' || n), 1, 24), at, 200, 40 FROM told WHERE n > {PAUSED}
""",
    "audit": f"""
INSERT INTO audit (tenant_id, at, actor, action, object_id)
{_EACH}
SELECT tenant_id, at, 'key_1', CASE n % 500 WHEN 9 THEN 'session.changed' ELSE 'session.read' END, session_id
FROM each WHERE is_whole
""",
    # Kept for seven days: there are not more of them in a larger installation.
    "idempotency_keys": f"""
INSERT INTO idempotency_keys (tenant_id, key_hash, request_hash, session_id, answer_sealed, created_at)
{_EACH}
SELECT tenant_id, sha256(n::text::bytea), sha256(n::text::bytea), session_id,
       decode(repeat(md5(n::text), 8), 'hex'), at
FROM each WHERE n < {7 * PER_DAY} AND n % 2 = 0
""",
}

_CONSTRAINTS = """
SELECT c.conrelid::regclass::text AS of, c.conname AS name, pg_get_constraintdef(c.oid) AS what,
       c.contype = 'f' AS is_link
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
WHERE c.contype IN ('p', 'u', 'f') AND c.connamespace = 'public'::regnamespace
  AND (c.conrelid::regclass::text = ANY($1) OR c.confrelid::regclass::text = ANY($1)) AND c.conparentid = 0
ORDER BY c.contype <> 'f'
"""
_INDEXES = """
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS what FROM pg_index i
WHERE i.indrelid::regclass::text = ANY($1)
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
"""
_SIZE = "SELECT pg_database_size(current_database())"
_SERVER = {
    "max_wal_size": "'8GB'",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "maintenance_work_mem": "'1GB'",
    "max_parallel_maintenance_workers": "0",
}


class Filled(Struct, frozen=True):
    """How large it became."""

    rows: int
    bytes: int


async def fill(database_url: str, rows: int) -> Filled:
    """Add so many sessions and what belongs to them; the server's settings are as they were at the end."""
    connection = await asyncpg.connect(database_url)
    try:
        await _configure(connection, "SET {} = {}")
        await connection.execute(_TENANTS)
        links, keys, indexes = await _take_away(connection)
        await _run_all(database_url, [(statement, [rows]) for statement in _ROWS.values()])
        await _run_all(database_url, [(each, []) for each in chain(keys, indexes)])
        await _run_all(database_url, [(each, []) for each in links])
        await connection.execute("DROP TABLE growth_tenants")
        await connection.execute(f"ALTER TABLE events ALTER COLUMN id RESTART WITH {2_000_000 + rows}")
        await connection.execute("VACUUM ANALYZE")
        await _configure(connection, "RESET {}")
        await connection.execute("CHECKPOINT")
        return Filled(rows, await connection.fetchval(_SIZE))
    finally:
        await connection.close()


async def _configure(connection: asyncpg.Connection, change: str) -> None:
    for name, value in _SERVER.items():
        await connection.execute("ALTER SYSTEM " + change.format(name, value))
    await connection.execute("SELECT pg_reload_conf()")


async def _take_away(connection: asyncpg.Connection) -> tuple[list[str], list[str], list[str]]:
    """Drop what an insert would have to keep up; return what makes it again: links, keys, indexes."""
    tables = list(_ROWS)
    constraints = await connection.fetch(_CONSTRAINTS, tables)
    indexes = await connection.fetch(_INDEXES, tables)
    for row in constraints:
        await connection.execute(f'ALTER TABLE {row["of"]} DROP CONSTRAINT "{row["name"]}"')
    for row in indexes:
        await connection.execute(f"DROP INDEX {row['name']}")

    def again(row: asyncpg.Record, how: str = "") -> str:
        return f'ALTER TABLE {row["of"]} ADD CONSTRAINT "{row["name"]}" {row["what"]}{how}'

    return (
        # The rows hold to them by how they were made; looking through all of them would take minutes.
        [again(row, " NOT VALID") for row in constraints if row["is_link"]],
        [again(row) for row in constraints if not row["is_link"]],
        [row["what"] for row in indexes],
    )


async def _run_all(database_url: str, statements: Iterable[tuple[str, list[int]]]) -> None:
    """Run statements, as many at a time as there is room for."""
    waiting = list(statements)[::-1]

    async def run() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            while waiting:
                statement, arguments = waiting.pop()
                await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    await asyncio.gather(*(run() for _ in range(AT_ONCE)))
