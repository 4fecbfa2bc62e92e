-- name: claim
-- Leases sequence numbers, each once, if their sessions accept audio; sessions are locked in order against deadlocks.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bytea[], $5::bigint[], $6::text[], $7::text[],
                         $8::uuid[], $9::float8[])
        WITH ORDINALITY AS asked (session_id, tenant_id, sequence, sha256, bytes, content_type, file_name, lease,
                                  lease_seconds, place)
), session AS (
    SELECT id, coalesce(vendor_session_id, id) AS vendor_id, tenant_id, account, status, upload, owed, expires_at <= now() AS is_past,
           held_since IS NOT NULL AS is_held, erased_at IS NOT NULL AS is_erased
    FROM sessions WHERE (id, tenant_id) IN (SELECT session_id, tenant_id FROM asked) ORDER BY id FOR SHARE
), claimed AS (
    INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name,
                        lease, lease_until)
    SELECT s.id, a.sequence, s.tenant_id, 'sending', a.sha256, a.bytes, a.content_type, a.file_name, a.lease,
           now() + make_interval(secs => a.lease_seconds)
    FROM session s JOIN asked a ON a.session_id = s.id AND a.tenant_id = s.tenant_id
    WHERE s.status IN ('created', 'recording') AND s.upload = 'chunked' AND (s.owed IS NULL OR s.is_held) AND NOT s.is_past
    ORDER BY s.id, a.sequence
    ON CONFLICT (session_id, sequence) DO UPDATE
    SET sha256 = excluded.sha256, bytes = excluded.bytes, lease = excluded.lease,
        lease_until = excluded.lease_until
    WHERE chunks.status = 'sending' AND chunks.file_name = excluded.file_name
      AND (chunks.sha256 = excluded.sha256 OR chunks.lease_until <= now())
    RETURNING session_id, sequence, lease
)
SELECT a.place, s.vendor_id, s.account, s.status, s.upload, s.owed, s.is_held, s.is_past, s.is_erased, n.lease,
       c.status AS chunk_status, c.sha256 AS chunk_sha256, c.bytes AS chunk_bytes, c.file_name AS chunk_file_name
FROM asked a
JOIN session s ON s.id = a.session_id AND s.tenant_id = a.tenant_id
LEFT JOIN claimed n ON n.session_id = a.session_id AND n.sequence = a.sequence
LEFT JOIN chunks c ON c.session_id = a.session_id AND c.sequence = a.sequence;

-- name: record
-- Records chunks that the vendor has; a chunk counts only while its session accepts audio.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[])
        WITH ORDINALITY AS asked (session_id, sequence, sha256, place)
), session AS (
    SELECT id, status FROM sessions
    WHERE id IN (SELECT session_id FROM asked) AND status IN ('created', 'recording')
    ORDER BY id FOR NO KEY UPDATE
), begun AS (
    UPDATE sessions SET status = 'recording' FROM session
    WHERE sessions.id = session.id AND session.status = 'created'
)
UPDATE chunks SET status = 'stored', stored_at = coalesce(stored_at, now()), lease = NULL, lease_until = NULL
FROM asked JOIN session ON session.id = asked.session_id
WHERE chunks.session_id = asked.session_id AND chunks.sequence = asked.sequence AND chunks.sha256 = asked.sha256
RETURNING asked.place;

-- name: release
-- Frees the sequence number of a chunk that the vendor refused.
DELETE FROM chunks WHERE session_id = $1 AND sequence = $2 AND lease = $3 AND status = 'sending';

-- name: expire_lease
-- Expires the lease of a chunk with an unknown outcome: the next upload may send it again.
UPDATE chunks SET lease_until = now() WHERE session_id = $1 AND sequence = $2 AND lease = $3;

-- name: sequences
-- Lists the sequence numbers that the vendor has, or that are held for it.
SELECT sequence FROM chunks WHERE session_id = $1 AND status IN ('held', 'stored') ORDER BY sequence;

-- name: lock_session
-- Locks the session of a chunk that is about to be held.
SELECT status FROM sessions WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE;

-- name: insert_block
-- Stores one encrypted block of a chunk.
INSERT INTO audio_blocks (id, session_id, tenant_id, sequence, block, bytes, data_sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: hold
-- Marks a chunk as held, and makes its handover due unless another call of the session is pending.
WITH chunk AS (
    UPDATE chunks SET status = 'held', held_at = now(), lease = NULL, lease_until = NULL
    WHERE session_id = $1 AND sequence = $2 AND lease = $3 AND status = 'sending'
    RETURNING session_id
)
UPDATE sessions s
SET status = 'recording', held_since = coalesce(held_since, now()),
    owed_attempts = CASE WHEN owed IS NULL THEN 0 ELSE owed_attempts END,
    owed_next_at = coalesce(owed_next_at, now() + make_interval(secs => $4)), owed = coalesce(owed, 'audio')
FROM chunk WHERE s.id = chunk.session_id
RETURNING s.id;

-- name: next_held
-- Reads the first held chunk of a session whose handover is leased to us.
SELECT c.sequence, c.sha256, c.bytes, c.content_type, c.file_name
FROM sessions s JOIN chunks c ON c.session_id = s.id
WHERE s.id = $1 AND s.owed_lease = $2 AND c.status = 'held'
ORDER BY c.sequence LIMIT 1;

-- name: block
-- Reads one encrypted block of a chunk.
SELECT id, data_sealed FROM audio_blocks WHERE session_id = $1 AND sequence = $2 AND block = $3;

-- name: record_handed_over
-- Records what became of a held chunk: `stored` by the vendor, or `refused`.
UPDATE chunks SET status = $4, stored_at = CASE WHEN $4 = 'stored' THEN now() END
WHERE session_id = $1 AND sequence = $2 AND status = 'held'
  AND EXISTS (SELECT FROM sessions s WHERE s.id = $1 AND s.owed_lease = $3)
RETURNING sequence;

-- name: delete_blocks
-- Deletes the bytes of a chunk.
DELETE FROM audio_blocks WHERE session_id = $1 AND sequence = $2;

-- name: has_held
-- Checks whether a session has held chunks.
SELECT 1 FROM chunks WHERE session_id = $1 AND status = 'held' LIMIT 1;

-- name: kept_bytes
-- Sums the audio that is kept: of one tenant, and in all.
SELECT coalesce(sum(bytes) FILTER (WHERE tenant_id = $1), 0)::bigint AS of_tenant,
       coalesce(sum(bytes), 0)::bigint AS in_all
FROM audio_blocks;
