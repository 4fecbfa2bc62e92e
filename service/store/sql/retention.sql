-- name: due
-- Lists sessions whose content ($2 false) or rows ($2 true) were kept long enough, with nothing open.
SELECT s.id, s.tenant_id
FROM (SELECT id, now() - make_interval(days => CASE WHEN $2 THEN keep_metadata_days ELSE keep_content_days END) AS past
      FROM tenants) t, LATERAL (
    SELECT * FROM sessions WHERE tenant_id = t.id AND created_at < t.past AND erased_at IS NULL
    UNION ALL
    SELECT * FROM sessions WHERE $2 AND tenant_id = t.id AND created_at < t.past AND erased_at IS NOT NULL
) s
-- The index finds sessions by their creation, which is never later than their settled time.
WHERE t.past IS NOT NULL AND coalesce(s.settled_at, s.created_at) < t.past
  AND s.owed IS NULL AND (s.settled_at IS NOT NULL OR s.status = 'failed')
  AND (SELECT true FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending' LIMIT 1) IS NULL
  AND (SELECT true FROM deliveries d WHERE d.session_id = s.id AND d.status IN ('pending', 'paused') LIMIT 1) IS NULL
  AND (s.status = 'cancelled'
       OR (SELECT true FROM documents d WHERE d.session_id = s.id AND d.released_at IS NULL LIMIT 1) IS NULL)
LIMIT $1;

-- name: hold
-- Checks the same for one session ($1) and locks it; no row if another transaction has locked it.
SELECT s.id
FROM tenants t JOIN sessions s ON s.tenant_id = t.id
WHERE s.id = $1
  AND coalesce(s.settled_at, s.created_at)
      < now() - make_interval(days => CASE WHEN $2 THEN t.keep_metadata_days ELSE t.keep_content_days END)
  AND ($2 OR s.erased_at IS NULL)
  AND s.owed IS NULL AND (s.settled_at IS NOT NULL OR s.status = 'failed')
  AND NOT EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending')
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.session_id = s.id AND d.status IN ('pending', 'paused'))
  AND (s.status = 'cancelled'
       OR NOT EXISTS (SELECT 1 FROM documents d WHERE d.session_id = s.id AND d.released_at IS NULL))
FOR UPDATE OF s SKIP LOCKED;

-- name: hold_deliveries
-- Locks the deliveries after their destinations: a retry at this moment happens wholly before or after.
SELECT status IN ('pending', 'paused') AS is_open FROM deliveries WHERE session_id = $1 ORDER BY id FOR UPDATE;

-- name: forget_keys
-- Deletes the keys of a deleted session: a repeat of its create call makes a new session.
DELETE FROM idempotency_keys WHERE tenant_id = $2 AND session_id = $1;

-- name: delete
-- Deletes a session with all its rows, except its audit entries.
DELETE FROM sessions WHERE id = $1;

-- name: purge_audio
-- Deletes blocks of audio that were kept long enough after the ending of their session: a week at least after a bad one.
WITH over AS (
    SELECT s.id FROM (SELECT DISTINCT session_id FROM audio_blocks) kept JOIN sessions s ON s.id = kept.session_id
    WHERE s.keep_audio_days IS NOT NULL
      AND s.settled_at <= now() - make_interval(
          days => CASE WHEN s.status IN ('completed', 'cancelled') AND s.audio_missing IS NULL THEN s.keep_audio_days
                       ELSE greatest(s.keep_audio_days, $2) END)
), due AS (
    SELECT b.id FROM over JOIN audio_blocks b ON b.session_id = over.id LIMIT $1 FOR UPDATE OF b SKIP LOCKED
)
DELETE FROM audio_blocks b USING due WHERE b.id = due.id
RETURNING b.session_id;
