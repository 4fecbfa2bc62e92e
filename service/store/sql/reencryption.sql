-- name: due
-- Returns the next table for a pass to a key, unless a newer first key exists: two lists must not undo each other.
SELECT t.name
FROM unnest($2::text[]) WITH ORDINALITY AS t (name, place)
JOIN encryption_keys own ON own.key_id = $1
LEFT JOIN resealing r ON r.table_name = t.name
WHERE NOT EXISTS (SELECT 1 FROM encryption_keys k WHERE k.retired_at IS NULL AND k.heard_at > own.heard_at)
  AND (r.table_name IS NULL OR r.key_id <> $1 OR r.finished_at IS NULL
       OR (r.left_over > 0 AND r.finished_at < now() - interval '10 seconds')
       -- One more pass after a day re-encrypts what a process with the old list encrypted behind the first pass.
       OR now() > own.heard_at + interval '1 day' AND r.started_at < own.heard_at + interval '1 day')
ORDER BY t.place LIMIT 1;

-- name: begin
-- Starts a pass, unless one to the same key is under way.
INSERT INTO resealing (table_name, key_id) VALUES ($1, $2)
ON CONFLICT (table_name) DO UPDATE
SET key_id = excluded.key_id, after = '', resealed = 0, left_over = 0, unreadable = 0, started_at = now(),
    finished_at = NULL
WHERE resealing.key_id <> excluded.key_id OR resealing.finished_at IS NOT NULL;

-- name: cursor
-- Reads the cursor of a pass under way.
SELECT after FROM resealing WHERE table_name = $1 AND key_id = $2 AND finished_at IS NULL;

-- name: advance
-- Advances a pass by one batch; no row if another worker has done it.
UPDATE resealing
SET after = $4, resealed = resealed + $5, left_over = left_over + $6, unreadable = unreadable + $7,
    finished_at = CASE WHEN $8 THEN now() END
WHERE table_name = $1 AND key_id = $2 AND after = $3 AND finished_at IS NULL
RETURNING table_name;

-- name: prefer
-- Makes this key the newest first key.
UPDATE encryption_keys SET heard_at = now() WHERE key_id = $1;

-- name: forget_passes
-- Deletes all passes, so that each table gets a new one.
DELETE FROM resealing;

-- name: passes
-- Lists the progress of each table.
SELECT table_name, key_id, resealed AS reencrypted, left_over, unreadable, started_at, finished_at FROM resealing ORDER BY table_name;

-- name: read_server_secrets
-- Reads the next secrets of the installation, with values under another key.
SELECT name AS id, name AS owner,
       CASE WHEN substring(value_sealed FROM 2 FOR 4) <> $3 THEN value_sealed END AS value_sealed
FROM server_secrets WHERE name > $1 ORDER BY name LIMIT $2;

-- name: write_server_secrets
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT t.name, n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN server_secrets t ON t.name = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE server_secrets t SET value_sealed = held.fresh FROM held
WHERE t.name = held.name AND substring(t.value_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;

-- name: read_tenants
-- Reads the next tenants, with accounts under another key.
SELECT id, id AS owner,
       CASE WHEN substring(account_sealed FROM 2 FOR 4) <> $3 THEN account_sealed END AS account_sealed
FROM tenants WHERE id > $1 ORDER BY id LIMIT $2;

-- name: write_tenants
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN tenants t ON t.id = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE tenants t SET account_sealed = held.fresh FROM held
WHERE t.id = held.id AND substring(t.account_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;

-- name: read_vendor_tokens
-- Reads the next vendor tokens, with values under another key.
SELECT account AS id, account AS owner,
       CASE WHEN substring(tokens_sealed FROM 2 FOR 4) <> $3 THEN tokens_sealed END AS tokens_sealed
FROM vendor_tokens WHERE account > $1 ORDER BY account LIMIT $2;

-- name: write_vendor_tokens
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN vendor_tokens t ON t.account = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE vendor_tokens t SET tokens_sealed = held.fresh FROM held
WHERE t.account = held.id AND substring(t.tokens_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;

-- name: read_destinations
-- Reads the next destinations, with values under another key.
SELECT id, id AS owner,
       CASE WHEN substring(url_sealed FROM 2 FOR 4) <> $3 THEN url_sealed END AS url_sealed,
       CASE WHEN substring(headers_sealed FROM 2 FOR 4) <> $3 THEN headers_sealed END AS headers_sealed,
       CASE WHEN substring(secrets_sealed FROM 2 FOR 4) <> $3 THEN secrets_sealed END AS secrets_sealed,
       CASE WHEN substring(auth_sealed FROM 2 FOR 4) <> $3 THEN auth_sealed END AS auth_sealed
FROM destinations WHERE id > $1 ORDER BY id LIMIT $2;

-- name: write_destinations
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[],
                           $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])
        n (id, url_head, url, headers_head, headers, secrets_head, secrets, auth_head, auth)
    JOIN destinations t ON t.id = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE destinations t
SET url_sealed = CASE WHEN substring(t.url_sealed FROM 1 FOR 17) = held.url_head THEN held.url ELSE t.url_sealed END,
    headers_sealed = CASE WHEN substring(t.headers_sealed FROM 1 FOR 17) = held.headers_head
                          THEN held.headers ELSE t.headers_sealed END,
    secrets_sealed = CASE WHEN substring(t.secrets_sealed FROM 1 FOR 17) = held.secrets_head
                          THEN held.secrets ELSE t.secrets_sealed END,
    auth_sealed = CASE WHEN substring(t.auth_sealed FROM 1 FOR 17) = held.auth_head
                       THEN held.auth ELSE t.auth_sealed END
FROM held WHERE t.id = held.id
RETURNING held.id;

-- name: read_sessions
-- Reads the next sessions, with values under another key.
SELECT id, id AS owner,
       CASE WHEN substring(details_sealed FROM 2 FOR 4) <> $3 THEN details_sealed END AS details_sealed,
       CASE WHEN substring(upload_url_sealed FROM 2 FOR 4) <> $3 THEN upload_url_sealed END AS upload_url_sealed,
       CASE WHEN substring(transcript_sealed FROM 2 FOR 4) <> $3 THEN transcript_sealed END AS transcript_sealed,
       CASE WHEN substring(warnings_sealed FROM 2 FOR 4) <> $3 THEN warnings_sealed END AS warnings_sealed
FROM sessions WHERE id > $1 ORDER BY id LIMIT $2;

-- name: write_sessions
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[],
                           $8::bytea[], $9::bytea[])
        n (id, details_head, details, url_head, url, transcript_head, transcript, warnings_head, warnings)
    JOIN sessions t ON t.id = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE sessions t
SET details_sealed = CASE WHEN substring(t.details_sealed FROM 1 FOR 17) = held.details_head
                          THEN held.details ELSE t.details_sealed END,
    upload_url_sealed = CASE WHEN substring(t.upload_url_sealed FROM 1 FOR 17) = held.url_head
                             THEN held.url ELSE t.upload_url_sealed END,
    transcript_sealed = CASE WHEN substring(t.transcript_sealed FROM 1 FOR 17) = held.transcript_head
                             THEN held.transcript ELSE t.transcript_sealed END,
    warnings_sealed = CASE WHEN substring(t.warnings_sealed FROM 1 FOR 17) = held.warnings_head
                           THEN held.warnings ELSE t.warnings_sealed END
FROM held WHERE t.id = held.id
RETURNING held.id;

-- name: read_documents
-- Reads the next documents, with values under another key.
SELECT id, id AS owner, CASE WHEN substring(data_sealed FROM 2 FOR 4) <> $3 THEN data_sealed END AS data_sealed,
       CASE WHEN substring(annotations_sealed FROM 2 FOR 4) <> $3 THEN annotations_sealed END AS annotations_sealed
FROM documents WHERE id > $1 ORDER BY id LIMIT $2;

-- name: write_documents
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[])
        n (id, data_head, data, annotations_head, annotations)
    JOIN documents t ON t.id = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE documents t
SET data_sealed = CASE WHEN substring(t.data_sealed FROM 1 FOR 17) = held.data_head
                       THEN held.data ELSE t.data_sealed END,
    annotations_sealed = CASE WHEN substring(t.annotations_sealed FROM 1 FOR 17) = held.annotations_head
                              THEN held.annotations ELSE t.annotations_sealed END
FROM held WHERE t.id = held.id
RETURNING held.id;

-- name: read_events
-- Reads the next events, with bodies under another key.
SELECT id::text, session_id AS owner,
       CASE WHEN substring(body_sealed FROM 2 FOR 4) <> $3 THEN body_sealed END AS body_sealed
FROM events e WHERE e.id > ('0' || $1)::bigint ORDER BY e.id LIMIT $2;

-- name: write_events
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.*, t.id AS event_id FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN events t ON t.id = n.id::bigint
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE events t SET body_sealed = held.fresh FROM held
WHERE t.id = held.event_id AND substring(t.body_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;

-- name: read_idempotency_keys
-- Reads the next kept answers, with values under another key; a tenant's id has no space.
SELECT tenant_id || ' ' || encode(key_hash, 'hex') AS id, session_id AS owner,
       CASE WHEN substring(answer_sealed FROM 2 FOR 4) <> $3 THEN answer_sealed END AS answer_sealed
FROM idempotency_keys
WHERE (tenant_id, key_hash) > (split_part($1, ' ', 1), decode(split_part($1, ' ', 2), 'hex'))
ORDER BY tenant_id, key_hash LIMIT $2;

-- name: write_idempotency_keys
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.*, t.tenant_id, t.key_hash FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN idempotency_keys t
      ON t.tenant_id = split_part(n.id, ' ', 1) AND t.key_hash = decode(split_part(n.id, ' ', 2), 'hex')
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE idempotency_keys t SET answer_sealed = held.fresh FROM held
WHERE t.tenant_id = held.tenant_id AND t.key_hash = held.key_hash
  AND substring(t.answer_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;

-- name: read_audio_blocks
-- Reads the next blocks of audio, with those under another key.
SELECT id, id AS owner, CASE WHEN substring(data_sealed FROM 2 FOR 4) <> $3 THEN data_sealed END AS data_sealed
FROM audio_blocks WHERE id > $1 ORDER BY id LIMIT $2;

-- name: write_audio_blocks
-- Replaces values that are still those that were read, in rows that are not locked.
WITH held AS (
    SELECT n.* FROM unnest($1::text[], $2::bytea[], $3::bytea[]) n (id, head, fresh)
    JOIN audio_blocks t ON t.id = n.id
    FOR NO KEY UPDATE OF t SKIP LOCKED
)
UPDATE audio_blocks t SET data_sealed = held.fresh FROM held
WHERE t.id = held.id AND substring(t.data_sealed FROM 1 FOR 17) = held.head
RETURNING held.id;
