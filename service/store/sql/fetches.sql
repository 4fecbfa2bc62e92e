-- name: owe
-- A Get Session call that will be made: at once, or after the wait if no webhook comes first.
INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
SELECT $1, $2, template_id, now() + make_interval(secs => $4)
FROM unnest($3::text[]) AS template_id
ON CONFLICT (session_id, template_id) DO NOTHING;

-- name: claim
-- Leases calls that are due, of one session or of any; a lease that ran out is due again.
WITH due AS (
    SELECT id FROM fetches
    WHERE status = 'pending' AND next_at <= now() AND ($1::text IS NULL OR session_id = $1)
    ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE fetches f SET lease = gen_random_uuid(), next_at = now() + make_interval(secs => $3),
                     attempts = attempts + 1, hinted = false
FROM due, sessions s
WHERE f.id = due.id AND s.id = f.session_id
RETURNING f.id, f.lease, f.tenant_id, f.session_id, f.template_id, f.attempts, f.missing, s.account,
          extract(epoch FROM now() - s.ended_at)::float8 AS ended_seconds_ago;

-- name: postpone
-- Not this time: when to ask again; at once if a webhook came while we asked.
UPDATE fetches SET lease = NULL, last_error = $4, missing = CASE WHEN $5 THEN missing + 1 ELSE 0 END,
                   next_at = CASE WHEN hinted THEN now() ELSE now() + make_interval(secs => $3) END
WHERE id = $1 AND lease = $2 AND status = 'pending'
RETURNING id;

-- name: settle
-- The call is done with; fenced by the lease, so that a worker that lost it records nothing.
UPDATE fetches SET status = 'settled', outcome = $3, next_at = NULL, lease = NULL, settled_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending'
RETURNING id;

-- name: settle_rest
-- The session is over: calls that were still to be made are not.
UPDATE fetches SET status = 'settled', outcome = $2, next_at = NULL, lease = NULL, settled_at = now()
WHERE session_id = $1 AND status = 'pending';

-- name: of_session
-- Every call of a session and how it stands.
SELECT template_id, status = 'settled' AS is_settled, last_error IS NOT NULL AS was_answered, attempts FROM fetches WHERE session_id = $1;
