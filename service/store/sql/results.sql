-- name: schedule
-- Schedules a fetch at once, or after the wait if no webhook arrives before.
INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
SELECT $1, $2, template_id, now() + make_interval(secs => $4)
FROM unnest($3::text[]) AS template_id
ON CONFLICT (session_id, template_id) DO NOTHING;

-- name: claim
-- Leases due fetches, of one session or of any, except those of the accounts and `tenant:…` in $4.
WITH due AS (
    SELECT id FROM fetches f
    WHERE status = 'pending' AND next_at <= now() AND ($1::text IS NULL OR session_id = $1)
      AND ($4::text[] = '{}' OR 'tenant:' || f.tenant_id <> ALL($4)
           AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = f.session_id AND s.account = ANY($4)))
    ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE fetches f SET lease = gen_random_uuid(), next_at = now() + make_interval(secs => $3),
                     attempts = attempts + 1, hinted = false, called_at = now()
FROM due, sessions s
WHERE f.id = due.id AND s.id = f.session_id
RETURNING f.id, f.lease, f.tenant_id, f.session_id, f.template_id, f.attempts, f.missing,
          coalesce(s.vendor_session_id, s.id) AS vendor_id, s.account,
          extract(epoch FROM now() - greatest(s.ended_at, s.remade_at))::float8 AS ended_seconds_ago, f.asked, f.document_id, s.traceparent,
          s.ended_at IS NULL AND s.settled_at IS NULL AND s.status <> 'failed' AS is_end_hint,
          s.settled_at IS NOT NULL OR s.status = 'failed' AS is_over, f.verdict,
          extract(epoch FROM now() - f.verdict_since)::float8 AS verdict_seconds,
          EXISTS (SELECT 1 FROM webhook_events w
                  WHERE w.account = s.account AND w.session_id = coalesce(s.vendor_session_id, s.id) AND w.phase = 'ended'
                    AND w.kind IN ('completed', 'partial')) AS was_announced;

-- name: postpone
-- Makes a fetch due again later; at once if a webhook arrived during the call.
UPDATE fetches SET lease = NULL, last_error = $4, missing = CASE WHEN $5 THEN missing + 1 ELSE 0 END,
                   next_at = CASE WHEN hinted THEN now() ELSE now() + make_interval(secs => $3) END
WHERE id = $1 AND lease = $2 AND status = 'pending'
RETURNING id;

-- name: settle_template
-- Settles the fetch of a template; a worker in the middle of it loses its lease.
UPDATE fetches SET status = 'settled', outcome = $3, next_at = NULL, lease = NULL, settled_at = now()
WHERE session_id = $1 AND template_id = $2 AND status = 'pending' AND asked IS NULL;

-- name: record_verdict
-- Stores the verdict on a template's document, with the time of its first.
UPDATE fetches
SET verdict = $3, verdict_since = CASE WHEN verdict = $3 THEN verdict_since WHEN $3 IS NOT NULL THEN now() END
WHERE session_id = $1 AND template_id = $2;

-- name: request_unfiltered
-- Makes the unfiltered fetch due: new, settled or, with $3, waiting; $4 restarts its count of tries.
INSERT INTO fetches (tenant_id, session_id, template_id, next_at) VALUES ($1, $2, '', now())
ON CONFLICT (session_id, template_id) DO UPDATE
SET status = 'pending', outcome = NULL, settled_at = NULL,
    attempts = CASE WHEN fetches.status = 'settled' OR $4 THEN 0 ELSE fetches.attempts END,
    missing = CASE WHEN fetches.status = 'settled' THEN 0 ELSE fetches.missing END,
    hinted = fetches.lease IS NOT NULL,
    next_at = CASE WHEN fetches.lease IS NULL THEN now() ELSE fetches.next_at END
WHERE fetches.asked IS NULL AND ($3 OR fetches.status = 'settled');

-- name: hurry
-- Makes the fetches of an ended session due, except those called within the last $3 seconds, and those of held sessions.
UPDATE fetches f SET next_at = now()
FROM sessions s
WHERE s.id = $2 AND s.tenant_id = $1 AND s.status IN ('processing', 'partial') AND s.settled_at IS NULL
  AND s.held_since IS NULL  -- else the vendor may lack the session, and too many such answers end it
  AND f.session_id = s.id AND f.status = 'pending' AND f.lease IS NULL AND f.asked IS NULL AND f.next_at > now()
  AND (f.template_id <> '' OR cardinality(s.templates) = 0)
  AND coalesce(f.called_at < now() - make_interval(secs => $3), true)
RETURNING f.id;

-- name: refresh
-- Makes the unfiltered fetch of an ended session due, at least $4 seconds after the last call.
WITH named AS (
    SELECT id, tenant_id, status, erased_at IS NOT NULL AS is_erased,
           erased_at IS NULL AND owed IS NULL
           AND (status IN ('failed', 'expired') OR settled_at IS NOT NULL AND status IN ('completed', 'partial')) AS is_over,
           erased_at IS NULL AND settled_at IS NULL AND status IN ('processing', 'partial') AS is_ended,
           held_since IS NOT NULL AS is_held
    FROM sessions WHERE tenant_id = $1 AND id = $2 FOR SHARE
), asked AS (
    INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
    SELECT tenant_id, id, '', now() FROM named WHERE is_over
    ON CONFLICT (session_id, template_id) DO UPDATE
    SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
        verdict = NULL, verdict_since = NULL, hinted = fetches.lease IS NOT NULL,
        next_at = CASE WHEN fetches.lease IS NULL THEN greatest(now(), fetches.called_at + make_interval(secs => $4))
                       ELSE fetches.next_at END
    WHERE fetches.asked IS NULL
), hurried AS (
    UPDATE fetches f
    SET next_at = CASE WHEN f.lease IS NULL THEN greatest(now(), f.called_at + make_interval(secs => $4)) ELSE f.next_at END,
        hinted = f.lease IS NOT NULL
    FROM named n WHERE n.is_ended AND NOT n.is_held AND f.session_id = n.id AND f.status = 'pending'
), noted AS (
    INSERT INTO audit (tenant_id, actor, action, object_id)
    SELECT tenant_id, $3, 'session.refreshed', id FROM named WHERE is_over OR is_ended
)
SELECT status, is_erased, is_over OR is_ended AS is_requested FROM named;

-- name: release
-- Releases a fetch whose worker stops: another worker makes it at once.
UPDATE fetches SET lease = NULL, next_at = now() WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: give_back
-- Releases a fetch that was not made; it counts as no attempt.
UPDATE fetches SET lease = NULL, attempts = attempts - 1, next_at = now() + make_interval(secs => $3)
WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: settle
-- Settles a fetch; no row if the lease was lost, and then the worker may record nothing.
UPDATE fetches SET status = 'settled', outcome = $3, next_at = NULL, lease = NULL, settled_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending'
RETURNING id;

-- name: settle_rest
-- Settles the pending fetches of a session that is over, except those of additional documents.
UPDATE fetches SET status = 'settled', outcome = $2, next_at = NULL, lease = NULL, settled_at = now()
WHERE session_id = $1 AND status = 'pending' AND asked IS NULL;

-- name: hold
-- Locks a fetch whose lease is still ours.
SELECT 1 FROM fetches WHERE id = $1 AND lease = $2 AND status = 'pending' FOR UPDATE;

-- name: drop
-- Deletes a fetch that is not needed.
DELETE FROM fetches WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: forget_probes
-- Deletes fetches from before the session's end, which only checked for an end; new ones follow.
DELETE FROM fetches WHERE session_id = $1;

-- name: of_session
-- Lists every fetch of a session with its state.
SELECT template_id, status = 'settled' AS is_settled, last_error IS NOT NULL AS was_answered, attempts,
       asked IS NOT NULL AS is_additional, last_error AS reason, outcome, verdict,
       extract(epoch FROM now() - verdict_since)::float8 AS verdict_seconds
FROM fetches WHERE session_id = $1;
