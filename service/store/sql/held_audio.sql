-- name: lock_session
-- Locks the session of a chunk that is about to be held.
SELECT status FROM sessions WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE;

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

-- name: record_handed_over
-- Records what became of a held chunk: `stored` by the vendor, or `refused`.
UPDATE chunks SET status = $4, stored_at = CASE WHEN $4 = 'stored' THEN now() END
WHERE session_id = $1 AND sequence = $2 AND status = 'held'
  AND EXISTS (SELECT FROM sessions s WHERE s.id = $1 AND s.owed_lease = $3)
RETURNING sequence;

-- name: has_held
-- Checks whether a session has held chunks.
SELECT 1 FROM chunks WHERE session_id = $1 AND status = 'held' LIMIT 1;
