-- name: begin
-- Begins the upload of a new session's recording; EkaScribe gets the session when the recording is whole.
WITH begun AS (
    UPDATE sessions SET owed = NULL, owed_next_at = NULL, owed_lease = NULL
    WHERE id = $1 AND owed_lease = $2 AND owed = 'create'
    RETURNING id, tenant_id
)
INSERT INTO recording_uploads (session_id, tenant_id) SELECT id, tenant_id FROM begun
RETURNING session_id;

-- name: state
-- Reads how far the upload of a recording is; the size of one that is whole.
SELECT s.status, s.erased_at IS NOT NULL AS is_erased, s.expires_at <= now() AS is_past,
       r.bytes, u.received, u.length, u.session_id IS NOT NULL AS is_open
FROM sessions s LEFT JOIN recordings r ON r.session_id = s.id LEFT JOIN recording_uploads u ON u.session_id = s.id
WHERE s.tenant_id = $1 AND s.id = $2 AND s.upload = 'recording';

-- name: lock_session
-- Locks the session of an upload that is open.
SELECT s.id, s.tenant_id FROM sessions s
WHERE s.tenant_id = $1 AND s.id = $2 AND s.upload = 'recording' AND s.status IN ('created', 'recording')
  AND s.erased_at IS NULL
FOR NO KEY UPDATE;

-- name: restart
-- Begins an upload anew: the client has said how long the recording is, or nothing of it (NULL).
UPDATE recording_uploads SET received = 0, blocks = 0, length = $3, lease = NULL, lease_until = NULL
WHERE tenant_id = $1 AND session_id = $2;

-- name: claim
-- Leases an upload for a piece that continues it, unless another piece comes in at this moment.
UPDATE recording_uploads
SET lease = $3, lease_until = now() + make_interval(secs => $4), length = coalesce(length, $6)
WHERE tenant_id = $1 AND session_id = $2 AND received = $5 AND (lease IS NULL OR lease_until <= now())
RETURNING received, length;

-- name: append
-- Counts bytes that were received under the lease, and renews it; a whole block follows the others.
UPDATE recording_uploads SET received = received + $3, blocks = blocks + $4, lease_until = now() + make_interval(secs => $5)
WHERE session_id = $1 AND lease = $2
RETURNING tenant_id, received, length, blocks;

-- name: record_audio
-- Shows that a session has audio; it does not expire while its recording comes in.
UPDATE sessions SET status = 'recording', expires_at = greatest(expires_at, now() + make_interval(secs => $2))
WHERE id = $1;

-- name: release
-- Releases the lease of a piece that is over.
UPDATE recording_uploads SET lease = NULL, lease_until = NULL WHERE session_id = $1 AND lease = $2;

-- name: delete
-- Deletes an upload that is whole, or was given up.
DELETE FROM recording_uploads WHERE tenant_id = $1 AND session_id = $2;

-- name: cancel_session
-- Cancels the session of an upload that its client gave up; EkaScribe never had it.
UPDATE sessions SET status = 'cancelled', settled_at = now() WHERE tenant_id = $1 AND id = $2;

-- name: delete_over
-- Deletes one upload of a session that is over, and the bytes that came before.
WITH over AS (
    DELETE FROM recording_uploads WHERE session_id IN (
        SELECT u.session_id FROM recording_uploads u JOIN sessions s ON s.id = u.session_id
        WHERE s.status NOT IN ('created', 'recording') LIMIT 1)
    RETURNING session_id
), bytes AS (
    DELETE FROM audio_blocks b USING over WHERE b.session_id = over.session_id AND b.sequence = -1
)
SELECT session_id FROM over;
