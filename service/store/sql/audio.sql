-- name: claim
-- Leases sequence numbers, each once, if their sessions accept audio; sessions are locked in order against deadlocks.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bytea[], $5::bigint[], $6::text[], $7::text[],
                         $8::uuid[], $9::float8[])
        WITH ORDINALITY AS asked (session_id, tenant_id, sequence, sha256, bytes, content_type, file_name, lease,
                                  lease_seconds, place)
), session AS (
    SELECT id, coalesce(vendor_session_id, id) AS vendor_id, tenant_id, account, status, upload, owed, expires_at <= now() AS is_past,
           held_since IS NOT NULL AS is_held, keep_audio_days IS NOT NULL AS keeps_audio, erased_at IS NOT NULL AS is_erased
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
SELECT a.place, s.vendor_id, s.account, s.status, s.upload, s.owed, s.is_held, s.keeps_audio, s.is_past, s.is_erased,
       n.lease,
       c.status AS chunk_status, c.sha256 AS chunk_sha256, c.bytes AS chunk_bytes, c.file_name AS chunk_file_name
FROM asked a
JOIN session s ON s.id = a.session_id AND s.tenant_id = a.tenant_id
LEFT JOIN claimed n ON n.session_id = a.session_id AND n.sequence = a.sequence
LEFT JOIN chunks c ON c.session_id = a.session_id AND c.sequence = a.sequence;

-- name: record
-- Records chunks that the vendor has; a chunk counts only while its session accepts audio and is the same at the vendor.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::text[])
        WITH ORDINALITY AS asked (session_id, sequence, sha256, vendor_id, place)
), session AS (
    SELECT id, coalesce(vendor_session_id, id) AS vendor_id, status FROM sessions
    WHERE id IN (SELECT session_id FROM asked) AND status IN ('created', 'recording')
    ORDER BY id FOR NO KEY UPDATE
), begun AS (
    UPDATE sessions SET status = 'recording' FROM session
    WHERE sessions.id = session.id AND session.status = 'created'
      AND session.vendor_id IN (SELECT vendor_id FROM asked)
)
UPDATE chunks SET status = 'stored', stored_at = coalesce(stored_at, now()), lease = NULL, lease_until = NULL
FROM asked JOIN session ON session.id = asked.session_id AND session.vendor_id = asked.vendor_id
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
