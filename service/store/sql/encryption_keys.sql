-- name: registered
-- Every key that ever sealed anything, oldest first, and how many processes seal with it now.
SELECT key_id, first_seen_at, retired_at,
       (SELECT count(*) FROM sealers s WHERE s.key_id = k.key_id AND s.until > now()) AS processes
FROM encryption_keys k ORDER BY first_seen_at, key_id;

-- name: hear
-- A key seals from now on, whatever was thought of it before.
INSERT INTO encryption_keys (key_id) VALUES ($1)
ON CONFLICT (key_id) DO UPDATE SET heard_at = now(), retired_at = NULL;

-- name: hear_alone
-- A key seals from now on, unless a process seals with another one; then there is no row.
INSERT INTO encryption_keys (key_id)
SELECT $1 WHERE NOT EXISTS (SELECT FROM sealers WHERE key_id <> $1 AND until > now())
ON CONFLICT (key_id) DO UPDATE SET heard_at = now(), retired_at = NULL
RETURNING key_id;

-- name: is_held
-- Whether a key sealed something that was not given up: somebody has it.
SELECT 1 FROM encryption_keys WHERE key_id = $1 AND retired_at IS NULL;

-- name: discover
-- A key under which values were found.
INSERT INTO encryption_keys (key_id, heard_at) VALUES ($1, '-infinity') ON CONFLICT (key_id) DO NOTHING;

-- name: renew_sealer
-- A process that seals with a key, for so many seconds unless it says so again.
INSERT INTO sealers (process, key_id, until) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (process) DO UPDATE SET key_id = excluded.key_id, until = excluded.until;

-- name: remove_sealer
-- A process that stops, and those that were not heard of any more.
DELETE FROM sealers WHERE process = $1 OR until <= now();

-- name: others_sealing
-- The keys but this one with which processes seal, how many, and until when they count.
SELECT key_id, count(*) AS processes, max(until) AS until FROM sealers
WHERE key_id <> $1 AND until > now() GROUP BY key_id ORDER BY key_id;

-- name: hold
-- One key, held until the transaction ends: a process that begins to seal with it comes wholly before or after.
SELECT key_id FROM encryption_keys WHERE key_id = $1 FOR UPDATE;

-- name: processes
-- How many processes seal with a key; asked once it is held, so that none is missed that had it before.
SELECT count(*) AS processes FROM sealers WHERE key_id = $1 AND until > now();

-- name: retire
-- Nothing is sealed with it any more; a process that does brings it back.
UPDATE encryption_keys SET retired_at = now() WHERE key_id = $1 RETURNING retired_at;

-- name: audit_retired
-- An entry for each tenant: each one's values were under it.
INSERT INTO audit (tenant_id, actor, action, object_id, facts)
SELECT id, 'cli', 'encryption_key.retired', $1, $2 FROM tenants;

-- name: count
-- Sealed values by column and key, projected from so many pages of each table: exact where it has no more.
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
    SELECT 'idempotency_keys.answer_sealed', answer_sealed,
           least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                        / greatest(1, pg_relation_size('idempotency_keys')))
    FROM idempotency_keys
         TABLESAMPLE SYSTEM (least(100.0, 100.0 * $1::float8 * current_setting('block_size')::int
                                   / greatest(1, pg_relation_size('idempotency_keys')))::real)
)
SELECT place, encode(substring(value FROM 2 FOR 4), 'hex') AS key_id, ceil(sum(100.0 / percent))::bigint AS count
FROM found WHERE value IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2;
