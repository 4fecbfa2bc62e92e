-- name: receive
-- Records an event and makes the session's fetches due, in one statement and one commit.
WITH named AS (  -- the lock makes an erasure or an end at this moment happen wholly before or after
    SELECT id, tenant_id, status, owed, erased_at, settled_at,
           CASE WHEN account <> $1 OR erased_at IS NOT NULL THEN 'unknown'
                -- The event is about a session of the vendor's that another one has replaced.
                WHEN coalesce(vendor_session_id, id) <> $2 THEN 'unknown'
                WHEN ended_at IS NULL THEN 'early' ELSE 'ended' END AS phase
    FROM sessions WHERE id = $2 OR vendor_session_id = $2 LIMIT 1 FOR SHARE
), recorded AS (
    INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes)
    SELECT $1, $2, $3, coalesce((SELECT phase FROM named), 'unknown'), $4, $5, $6
    WHERE NOT EXISTS (SELECT 1 FROM named WHERE erased_at IS NOT NULL)
    ON CONFLICT (account, session_id, kind, phase) DO UPDATE SET repeats = webhook_events.repeats + 1
    RETURNING phase, repeats = 0 AS is_first
), hurried AS (
    UPDATE fetches f
    SET next_at = CASE WHEN f.lease IS NULL THEN now() ELSE f.next_at END, hinted = f.lease IS NOT NULL
    FROM recorded r, named n
    WHERE $7 AND r.is_first AND r.phase = 'ended' AND f.session_id = n.id AND f.status = 'pending'
    RETURNING f.id
), asked AS (  -- the unfiltered fetch: for a session that ended by itself, or one that ended badly and may get more
    INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
    SELECT n.tenant_id, n.id, '', now() FROM named n, recorded r
    WHERE ($3 IN ('expired', 'failed') AND r.is_first AND r.phase = 'early'
           AND n.status IN ('created', 'recording') AND n.owed IS NULL)
       OR ($3 IN ('completed', 'partial') AND r.phase <> 'unknown' AND n.settled_at IS NOT NULL
           AND n.status IN ('partial', 'failed', 'expired')
           AND (r.is_first OR NOT EXISTS (
               SELECT 1 FROM webhook_events w
               WHERE w.account = $1 AND w.session_id = $2 AND w.kind = $3 AND w.body_sha256 = $5
               UNION ALL
               SELECT 1 FROM fetches f WHERE f.session_id = n.id AND f.template_id = ''
                                         AND f.called_at >= now() - interval '10 seconds')))
    ON CONFLICT (session_id, template_id) DO UPDATE
    SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
        verdict = NULL, verdict_since = NULL, hinted = false, next_at = now()
    WHERE fetches.status = 'settled' AND fetches.asked IS NULL
    RETURNING id
)
SELECT coalesce((SELECT phase FROM recorded), 'unknown') AS phase,
       coalesce((SELECT is_first FROM recorded), false) AS is_first,
       (SELECT count(*) FROM hurried) + (SELECT count(*) FROM asked) AS due, (SELECT id FROM named) AS found_id;

-- name: receive_many
-- Does the same for events of different sessions; skips sessions that another transaction has locked.
WITH told AS MATERIALIZED (  -- `times` is the number of equal events: one first and its repeats
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::integer[], $7::boolean[],
                         $8::integer[])
        AS t (account, session_id, kind, shape, body_sha256, body_bytes, is_ending, times)
), named AS MATERIALIZED (  -- skips locked sessions: one erasure must not delay the events of other sessions
    SELECT t.session_id, s.id, s.tenant_id, s.status, s.owed, s.erased_at, s.settled_at,
           CASE WHEN s.account <> t.account OR s.erased_at IS NOT NULL THEN 'unknown'
                WHEN coalesce(s.vendor_session_id, s.id) <> t.session_id THEN 'unknown'
                WHEN s.ended_at IS NULL THEN 'early' ELSE 'ended' END AS phase
    FROM told t JOIN sessions s ON s.id = t.session_id OR s.vendor_session_id = t.session_id
    FOR SHARE OF s SKIP LOCKED
), taken AS MATERIALIZED (
    SELECT t.*, n.id AS found_id, n.tenant_id, n.status, n.owed, n.erased_at, n.settled_at,
           coalesce(n.phase, 'unknown') AS phase
    FROM told t LEFT JOIN named n ON n.session_id = t.session_id
    WHERE n.id IS NOT NULL
       OR NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = t.session_id OR s.vendor_session_id = t.session_id)
), recorded AS (
    INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes, repeats)
    SELECT account, session_id, kind, phase, shape, body_sha256, body_bytes, times - 1
    FROM taken WHERE erased_at IS NULL
    ORDER BY session_id
    ON CONFLICT (account, session_id, kind, phase)
        DO UPDATE SET repeats = webhook_events.repeats + 1 + excluded.repeats
    RETURNING session_id, repeats
), noted AS MATERIALIZED (
    SELECT t.*, r.session_id IS NOT NULL AS is_recorded, coalesce(r.repeats = t.times - 1, false) AS is_first
    FROM taken t LEFT JOIN recorded r ON r.session_id = t.session_id
), held AS (  -- sorted, and locked after all events, so that batches of several processes cannot deadlock
    SELECT f.id
    FROM noted n JOIN fetches f ON f.session_id = n.found_id
    WHERE n.is_first AND n.phase = 'ended' AND n.is_ending AND f.status = 'pending'
    ORDER BY f.session_id, f.template_id
    FOR UPDATE OF f
), hurried AS (
    UPDATE fetches f
    SET next_at = CASE WHEN f.lease IS NULL THEN now() ELSE f.next_at END, hinted = f.lease IS NOT NULL
    FROM held h WHERE f.id = h.id
    RETURNING f.session_id
), asked AS (  -- the unfiltered fetch as in `receive`, after the locked rows to keep the lock order
    INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
    SELECT n.tenant_id, n.found_id, '', now() FROM noted n
    WHERE ((n.kind IN ('expired', 'failed') AND n.is_first AND n.phase = 'early'
            AND n.status IN ('created', 'recording') AND n.owed IS NULL)
           OR (n.kind IN ('completed', 'partial') AND n.phase <> 'unknown' AND n.settled_at IS NOT NULL
               AND n.status IN ('partial', 'failed', 'expired')
               AND (n.is_first OR NOT EXISTS (
                   SELECT 1 FROM webhook_events w
                   WHERE w.account = n.account AND w.session_id = n.session_id AND w.kind = n.kind
                     AND w.body_sha256 = n.body_sha256
                   UNION ALL
                   SELECT 1 FROM fetches f WHERE f.session_id = n.found_id AND f.template_id = ''
                                             AND f.called_at >= now() - interval '10 seconds'))))
      AND (SELECT count(*) FROM held) >= 0
    ORDER BY n.found_id
    ON CONFLICT (session_id, template_id) DO UPDATE
    SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
        verdict = NULL, verdict_since = NULL, hinted = false, next_at = now()
    WHERE fetches.status = 'settled' AND fetches.asked IS NULL
    RETURNING session_id
), due AS (
    SELECT session_id, count(*) AS number
    FROM (SELECT session_id FROM hurried UNION ALL SELECT session_id FROM asked) each
    GROUP BY session_id
)
SELECT n.session_id, CASE WHEN n.is_recorded THEN n.phase ELSE 'unknown' END AS phase, n.is_first,
       coalesce(d.number, 0) AS due, n.found_id
FROM noted n LEFT JOIN due d ON d.session_id = n.found_id AND n.phase <> 'unknown';
