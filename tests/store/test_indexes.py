"""What runs often uses the index that was made for it."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.store.queries import sql
from tests.support.plans import walk

NOW = datetime.now(UTC)


H = b"\1" * 32


FILL = """
INSERT INTO tenants (id, name) SELECT 't' || n, 'x' FROM generate_series(1, 20) n;
INSERT INTO api_keys (id, tenant_id, role, key_hash)
SELECT 'k' || n, 't' || (n % 20 + 1), 'emr', sha256(n::text::bytea) FROM generate_series(1, 400) n;
INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages,
                      patient_id_hash, reference_hash, created_at, expires_at, owed, owed_next_at)
SELECT 's' || n, 't' || (n % 20 + 1), 'default',
       (array['completed', 'completed', 'completed', 'recording', 'processing'])[n % 5 + 1], 'chunked', 'd',
       'p', '{}', '{}', sha256(n::text::bytea), sha256(n::text::bytea), now() - n * interval '1 minute',
       now() + n * interval '1 minute', CASE WHEN n % 9 = 0 THEN 'end' END, CASE WHEN n % 9 = 0 THEN now() END
FROM generate_series(1, 2000) n;
INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name)
SELECT 's' || n, 0, 't1', 'stored', '', 1, '', '' FROM generate_series(1, 2000) n;
INSERT INTO fetches (tenant_id, session_id, template_id, status, next_at)
SELECT 't1', 's' || n, 'a', CASE WHEN n % 9 = 0 THEN 'pending' ELSE 'settled' END,
       CASE WHEN n % 9 = 0 THEN now() - interval '1 day' + n * interval '2 minutes' END
FROM generate_series(1, 2000) n;
INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status)
SELECT 'd' || n, 't' || (n % 20 + 1), 's' || n, 'a', '', 1, 'success' FROM generate_series(1, 2000) n;
INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed)
SELECT 'x' || n, 't' || (n % 20 + 1), '', '{}', '{}', '' FROM generate_series(1, 200) n;
INSERT INTO events (tenant_id, session_id, document_id, type, body_sealed)
SELECT 't1', 's' || n, 'd' || n, 'document.ready', '' FROM generate_series(1, 2000) n;
INSERT INTO deliveries (id, tenant_id, event_id, session_id, destination_id, type, status, next_at,
                        created_at)
SELECT 'm' || n, 't' || (n % 20 + 1), n, 's' || n, 'x' || (n % 200 + 1), 'document.ready',
       CASE WHEN n % 9 = 0 THEN 'pending' ELSE 'delivered' END,
       CASE WHEN n % 9 = 0 THEN now() - interval '1 day' + n * interval '2 minutes' END,
       now() - n * interval '1 minute'
FROM generate_series(1, 2000) n;
INSERT INTO attempts (delivery_id, at, duration_ms) SELECT 'm' || n, now(), 1 FROM generate_series(1, 2000) n;
INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes)
SELECT 'default', 's' || n, 'completed', 'ended', 'v2', '', 1 FROM generate_series(1, 2000) n;
INSERT INTO idempotency_keys (tenant_id, key_hash, request_hash, session_id)
SELECT 't1', sha256(n::text::bytea), '', 's' || n FROM generate_series(1, 2000) n;
INSERT INTO audit (tenant_id, actor, action, object_id)
SELECT 't' || (n % 20 + 1), 'k1', CASE n % 300 WHEN 0 THEN 'session.erased' ELSE 'session.read' END,
       's' || n
FROM generate_series(1, 2000) n;
ANALYZE;
SET enable_seqscan = off;
"""


QUERIES: list[tuple[str, list[Any], set[str]]] = [
    ("api_keys.principals_by_hash", [[H]], {"api_keys_key_hash_key"}),
    ("api_keys.list", ["t1"], {"api_keys_by_tenant"}),
    ("results.claim", [None, 10, 60.0, []], {"fetches_due"}),
    ("results.claim", [None, 10, 60.0, ["a"]], {"fetches_due", "sessions_pkey"}),
    ("results.of_session", ["s1"], {"fetches_session_id_template_id_key"}),
    ("results.settle", [1, uuid4(), "x"], {"fetches_pkey"}),
    (
        "deliveries.claim",
        [None, 10, 60.0, 8, 10, [], 2**20, True],
        {"deliveries_due_at_destination", "destinations_pkey"},
    ),
    ("deliveries.claim", ["s1", 10, 60.0, 8, 10, [], 2**20, True], {"deliveries_by_session"}),
    ("deliveries.recover_dead", ["x1", NOW], {"deliveries_dead_at_destination"}),
    ("deliveries.supersede", ["m1"], {"deliveries_of_document"}),
    ("deliveries.page", ["t1", None, None, None, None, None, 11], {"deliveries_newest"}),
    ("deliveries.page", ["t1", None, None, None, NOW, "m1", 11], {"deliveries_newest"}),
    ("deliveries.page", ["t1", "filed", None, None, None, None, 11], {"deliveries_by_status"}),
    ("deliveries.page", ["t1", None, "x20", None, None, None, 11], {"deliveries_by_destination"}),
    ("deliveries.page", ["t1", None, None, "s1", None, None, 11], {"deliveries_by_session"}),
    ("deliveries.attempts", ["m1"], {"attempts_by_delivery"}),
    ("deliveries.destinations_for", ["t1", "document.ready", "a"], {"destinations_by_tenant"}),
    ("destinations.list", ["t1", None, None, 11], {"destinations_by_tenant"}),
    ("sessions.claim_pending_calls", [10, 60.0, ["a"]], {"sessions_owed", "chunks_pkey"}),
    ("sessions.past", [10], {"sessions_unended"}),
    ("sessions.warn_expiring", [300.0], {"sessions_unended"}),
    ("sessions.page", ["t1", None, None, None, None, None, None, 11], {"sessions_listed"}),
    ("sessions.page", ["t1", None, None, None, NOW, NOW, "s1", 11], {"sessions_listed"}),
    ("sessions.page", ["t1", "processing", None, None, None, None, None, 11], {"sessions_listed_by_status"}),
    ("sessions.page", ["t1", None, H, None, None, None, None, 11], {"sessions_by_reference"}),
    ("sessions.page", ["t1", None, None, H, None, None, None, 11], {"sessions_by_patient"}),
    ("sessions.view", ["t1", "s1"], {"sessions_pkey", "chunks_pkey"}),
    ("sessions.lock", ["s1", None], {"sessions_pkey"}),
    (
        "sessions.remake",
        ["s1", "ses_again", "vendor_failed", None, 60.0],
        {"sessions_pkey", "chunks_pkey", "audio_blocks_in_order", "documents_", "fetches_"},
    ),
    ("sessions.standings", [["s1", "s2"]], {"sessions_pkey"}),
    (
        "sessions.marks",
        [["s1", "s2"]],
        {
            "sessions_pkey",
            "webhook_events_by_session",
            "fetches_",
            "documents_by_session",
            "deliveries_by_session",
        },
    ),
    ("sessions.outlook", ["t1", "s1"], {"sessions_pkey", "fetches_", "deliveries_by_session"}),
    ("erasure.idempotency", ["s1", "t1"], {"idempotency_keys_by_session"}),
    ("erasure.attempts", ["s1"], {"deliveries_by_session", "attempts_by_delivery"}),
    ("erasure.webhooks", ["s1"], {"webhook_events_by_session"}),
    ("sessions.delivery_counts", [["s1", "s2"]], {"deliveries_by_session"}),
    ("sessions.document_summaries", [["s1", "s2"]], {"documents_"}),
    (
        "sessions.timeline",
        ["s1", None, 0],
        {"webhook_events_", "deliveries_by_session", "attempts_by_delivery"},
    ),
    ("audio.sequences", ["s1"], {"chunks_pkey"}),
    ("held_audio.next_held", ["s1", uuid4()], {"sessions_pkey", "chunks_pkey"}),
    ("audio_blocks.read", ["s1", 0, 0], {"audio_blocks_in_order"}),
    ("audio_blocks.delete_of_chunk", ["s1", 0], {"audio_blocks_in_order"}),
    ("documents.of_session", ["t1", "s1", None], {"documents_"}),
    ("documents.unreleased", ["s1"], {"documents_"}),
    ("documents.latest", ["s1", "a", ""], {"documents_"}),
    (
        "webhook_events.receive",
        ["default", "s1", "completed", "v2", H, 1, True],
        {"sessions_pkey", "sessions_by_vendor_id", "fetches_session_id_template_id_key"},
    ),
    (
        "webhook_events.receive_many",
        [["default"], ["s1"], ["completed"], ["v2"], [H], [1], [True], [1]],
        {"sessions_pkey", "sessions_by_vendor_id", "fetches_session_id_template_id_key"},
    ),
    ("sessions.traceparent", ["s1"], {"sessions_pkey", "sessions_by_vendor_id"}),
    ("audit.page", ["t1", None, None, None, None, None, None, 11], {"audit_newest"}),
    ("audit.page", ["t1", None, "s1", None, None, None, None, 11], {"audit_of_object"}),
    ("audit.page", ["t1", "session.erased", None, None, None, None, None, 11], {"audit_by_action"}),
    ("vendor_accounts.is_used", ["t1"], {"sessions_", "fetches_"}),
    ("retention.due", [20, False], {"sessions_listed", "fetches_", "deliveries_", "documents_"}),
    ("retention.due", [20, True], {"sessions_listed", "sessions_newest"}),
    ("retention.hold", ["s1", True], {"sessions_pkey"}),
    ("erasure.extent", ["s1"], {"documents_by_session", "deliveries_by_session"}),
    ("reencryption.read_sessions", ["s1", 50, b"key!"], {"sessions_pkey"}),
    ("reencryption.read_documents", ["d1", 50, b"key!"], {"documents_pkey"}),
    ("reencryption.read_events", ["1", 50, b"key!"], {"events_pkey"}),
    ("reencryption.read_idempotency_keys", ["t1 00ff", 50, b"key!"], {"idempotency_keys_pkey"}),
    ("reencryption.write_sessions", [["s1"], *[[b"x"]] * 8], {"sessions_pkey"}),
    ("reencryption.write_events", [["1"], [b"x"], [b"x"]], {"events_pkey"}),
    ("reencryption.write_idempotency_keys", [["t1 00ff"], [b"x"], [b"x"]], {"idempotency_keys_pkey"}),
    ("idempotency.forget", [604_800.0], {"idempotency_keys_by_age"}),
    ("idempotency.lock", ["t1", H], {"idempotency_keys_pkey"}),
]


# Small tables that a statement goes through as a whole, because it is about each of their rows.
SCANNED = {"retention.due": {"tenants"}}


@pytest.fixture
async def filled(connection: asyncpg.Connection) -> asyncpg.Connection:
    await connection.execute(FILL)
    return connection


async def test_what_runs_often_uses_the_index_that_was_made_for_it(filled):
    surprises = {}
    for number, (name, arguments, wanted) in enumerate(QUERIES):
        found = await filled.fetchval(f"EXPLAIN (FORMAT JSON) {sql(name)}", *arguments)
        nodes = walk(json.loads(found)[0]["Plan"])
        used = {node["Index Name"] for node in nodes if "Index Name" in node}
        scanned = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
        missed = {index for index in wanted if not any(each.startswith(index) for each in used)}
        if missed or scanned - SCANNED.get(name, set()):
            surprises[f"{number} {name}"] = (missed, used, scanned)
    assert surprises == {}


async def test_no_two_indexes_are_the_same(connection):
    rows = await connection.fetch(
        "SELECT indexname, regexp_replace(indexdef, '^.* ON ', '') AS what FROM pg_indexes "
        "WHERE schemaname = 'public'"
    )
    assert len({row["what"] for row in rows}) == len(rows) > 20
