-- name: claim
-- Reserves a sequence for these bytes, if the session takes audio and nobody else holds it with other bytes.
WITH session AS (
    SELECT id, tenant_id, account, status, upload, owed, expires_at <= now() AS is_past,
           erased_at IS NOT NULL AS is_erased
    FROM sessions WHERE id = $1 AND tenant_id = $2 FOR SHARE
), claimed AS (
    INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name,
                        lease, lease_until)
    SELECT id, $3, tenant_id, 'sending', $4, $5, $6, $7, $8, now() + make_interval(secs => $9)
    FROM session
    WHERE status IN ('created', 'recording') AND upload = 'chunked' AND owed IS NULL AND NOT is_past
    ON CONFLICT (session_id, sequence) DO UPDATE
    SET sha256 = excluded.sha256, bytes = excluded.bytes, lease = excluded.lease,
        lease_until = excluded.lease_until
    WHERE chunks.status = 'sending' AND chunks.file_name = excluded.file_name
      AND (chunks.sha256 = excluded.sha256 OR chunks.lease_until <= now())
    RETURNING lease
)
SELECT session.account, session.status, session.upload, session.owed, session.is_past, session.is_erased,
       (SELECT lease FROM claimed) AS lease,
       c.status AS chunk_status, c.sha256 AS chunk_sha256, c.bytes AS chunk_bytes, c.file_name AS chunk_file_name
FROM session LEFT JOIN chunks c ON c.session_id = session.id AND c.sequence = $3;

-- name: record
-- The vendor has the bytes; counts only while the session still takes audio.
WITH session AS (
    UPDATE sessions SET status = 'recording'
    WHERE id = $1 AND status IN ('created', 'recording')
    RETURNING id
)
UPDATE chunks SET status = 'stored', stored_at = coalesce(stored_at, now()), lease = NULL, lease_until = NULL
FROM session
WHERE session_id = session.id AND sequence = $2 AND sha256 = $3
RETURNING sequence;

-- name: release
-- The vendor refused the bytes: the sequence is free again.
DELETE FROM chunks WHERE session_id = $1 AND sequence = $2 AND lease = $3 AND status = 'sending';

-- name: expire_lease
-- It is not known whether the vendor has the bytes: whoever comes next may send again.
UPDATE chunks SET lease_until = now() WHERE session_id = $1 AND sequence = $2 AND lease = $3;

-- name: stored_sequences
-- The sequences that are safely at the vendor.
SELECT sequence FROM chunks WHERE session_id = $1 AND status = 'stored' ORDER BY sequence;
