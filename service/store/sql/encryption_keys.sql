-- name: registered
-- Lists every key that ever encrypted a value, oldest first.
SELECT key_id, first_seen_at, retired_at FROM encryption_keys ORDER BY first_seen_at, key_id;

-- name: register
-- Registers a key that encrypts from now on, even if it was retired.
INSERT INTO encryption_keys (key_id) VALUES ($1)
-- `heard_at` stays: a process with an old list must not turn the re-encryption back.
ON CONFLICT (key_id) DO UPDATE SET retired_at = NULL;

-- name: is_held
-- Checks whether a key is registered and not retired: then another process may have it.
SELECT 1 FROM encryption_keys WHERE key_id = $1 AND retired_at IS NULL;

-- name: discover
-- Registers a key that values were found under, without making it the newest first key.
INSERT INTO encryption_keys (key_id, heard_at) VALUES ($1, '-infinity') ON CONFLICT (key_id) DO NOTHING;

-- name: hold
-- Locks a key: of two processes that retire it only one counts and audits.
SELECT key_id FROM encryption_keys WHERE key_id = $1 FOR UPDATE;

-- name: retire
-- Retires a key; a process that still encrypts with it registers it again.
UPDATE encryption_keys SET retired_at = now() WHERE key_id = $1 RETURNING retired_at;

-- name: forget_tokens
-- Forgets vendor tokens under a retired key: they are unreadable, and a login gets new ones.
UPDATE vendor_tokens SET tokens_sealed = NULL WHERE substring(tokens_sealed FROM 2 FOR 4) = decode($1, 'hex');

-- name: audit_retired
-- Inserts an audit entry for each tenant, since values of each were under the key.
INSERT INTO audit (tenant_id, actor, action, object_id, facts)
SELECT id, 'cli', 'encryption_key.retired', $1, $2 FROM tenants;

-- name: count
-- Counts encrypted values by column and key from a sample of pages; exact for a table with fewer pages.
WITH found (place, value, percent) AS (
    SELECT 'server_secrets.value_sealed', value_sealed, 100.0 FROM server_secrets
    UNION ALL
    SELECT 'tenants.account_sealed', account_sealed, 100.0 FROM tenants
    UNION ALL
    SELECT 'vendor_tokens.tokens_sealed', tokens_sealed, 100.0 FROM vendor_tokens
    UNION ALL
    SELECT v.place, v.value, 100.0
    FROM destinations, LATERAL (VALUES
        ('destinations.url_sealed', url_sealed), ('destinations.headers_sealed', headers_sealed),
        ('destinations.secrets_sealed', secrets_sealed), ('destinations.auth_sealed', auth_sealed)) v (place, value)
    UNION ALL
    SELECT v.place, v.value, share.percent
    FROM (SELECT least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                              / greatest(1, pg_relation_size('sessions'))) AS percent) share,
         sessions TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                            / greatest(1, pg_relation_size('sessions')))::real),
         LATERAL (VALUES ('sessions.details_sealed', details_sealed),
                         ('sessions.upload_url_sealed', upload_url_sealed),
                         ('sessions.transcript_sealed', transcript_sealed),
                         ('sessions.warnings_sealed', warnings_sealed)) v (place, value)
    UNION ALL
    SELECT v.place, v.value, share.percent
    FROM (SELECT least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                              / greatest(1, pg_relation_size('documents'))) AS percent) share,
         documents TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                             / greatest(1, pg_relation_size('documents')))::real),
         LATERAL (VALUES ('documents.data_sealed', data_sealed),
                         ('documents.annotations_sealed', annotations_sealed)) v (place, value)
    UNION ALL
    SELECT 'events.body_sealed', body_sealed,
           least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                        / greatest(1, pg_relation_size('events')))
    FROM events TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                          / greatest(1, pg_relation_size('events')))::real)
    UNION ALL
    SELECT 'audio_blocks.data_sealed', data_sealed,
           least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                        / greatest(1, pg_relation_size('audio_blocks')))
    FROM audio_blocks TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                                / greatest(1, pg_relation_size('audio_blocks')))::real)
    UNION ALL
    SELECT 'idempotency_keys.answer_sealed', answer_sealed,
           least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                        / greatest(1, pg_relation_size('idempotency_keys')))
    FROM idempotency_keys
         TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                   / greatest(1, pg_relation_size('idempotency_keys')))::real)
)
SELECT place, encode(substring(value FROM 2 FOR 4), 'hex') AS key_id, ceil(sum(100.0 / percent))::bigint AS count
FROM found WHERE value IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2;
