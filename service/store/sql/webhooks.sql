-- name: receive
-- Records an event and makes the session's results due, in one statement and so in one commit.
WITH known AS (
    SELECT id, CASE WHEN ended_at IS NULL THEN 'early' ELSE 'ended' END AS phase
    FROM sessions WHERE account = $1 AND id = $2
), recorded AS (
    INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes)
    SELECT $1, $2, $3, coalesce((SELECT phase FROM known), 'unknown'), $4, $5, $6
    ON CONFLICT (account, session_id, kind, phase) DO UPDATE SET repeats = webhook_events.repeats + 1
    RETURNING phase, repeats = 0 AS is_first
), due AS (
    UPDATE fetches f
    SET next_at = CASE WHEN f.lease IS NULL THEN now() ELSE f.next_at END, hinted = f.lease IS NOT NULL
    FROM recorded r
    WHERE $7 AND r.is_first AND r.phase = 'ended' AND f.session_id = $2 AND f.status = 'pending'
    RETURNING f.id
)
SELECT phase, is_first, (SELECT count(*) FROM due) AS due FROM recorded;
