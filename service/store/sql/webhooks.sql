-- name: receive
-- Records an event and makes the session's results due, in one statement and so in one commit.
WITH named AS (  -- held, so that an erasure or an ending at this moment comes wholly before or after
    SELECT id, tenant_id, status, templates, owed, erased_at, settled_at, account = $1 AS is_ours,
           CASE WHEN account <> $1 OR erased_at IS NOT NULL THEN 'unknown'
                WHEN ended_at IS NULL THEN 'early' ELSE 'ended' END AS phase
    FROM sessions WHERE id = $2 FOR SHARE
), recorded AS (
    INSERT INTO webhook_events (account, session_id, kind, phase, shape, body_sha256, body_bytes)
    SELECT $1, $2, $3, coalesce((SELECT phase FROM named), 'unknown'), $4, $5, $6
    WHERE NOT EXISTS (SELECT 1 FROM named WHERE erased_at IS NOT NULL)
    ON CONFLICT (account, session_id, kind, phase) DO UPDATE SET repeats = webhook_events.repeats + 1
    RETURNING phase, repeats = 0 AS is_first
), hurried AS (
    UPDATE fetches f
    SET next_at = CASE WHEN f.lease IS NULL THEN now() ELSE f.next_at END, hinted = f.lease IS NOT NULL
    FROM recorded r
    WHERE $7 AND r.is_first AND r.phase = 'ended' AND f.session_id = $2 AND f.status = 'pending'
    RETURNING f.id
), mended AS (  -- completed after it had been partial: what had failed is looked at again
    UPDATE fetches f
    SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
        hinted = false, next_at = now()
    FROM recorded r, named n
    WHERE $3 = 'completed' AND r.is_first AND r.phase = 'ended' AND n.status = 'partial'
      AND n.settled_at IS NOT NULL AND f.session_id = $2 AND f.status = 'settled' AND f.asked IS NULL
      AND CASE WHEN f.template_id = '' THEN cardinality(n.templates) = 0
               ELSE NOT EXISTS (SELECT 1 FROM documents d
                                WHERE d.session_id = $2 AND d.template_id = f.template_id)
                 OR EXISTS (SELECT 1 FROM documents d
                            WHERE d.session_id = $2 AND d.template_id = f.template_id AND d.status = 'failed'
                              AND NOT EXISTS (SELECT 1 FROM documents e
                                              WHERE e.session_id = $2 AND e.template_id = d.template_id
                                                AND e.version > d.version)) END
    RETURNING f.id
), probed AS (  -- over, although nobody ended it: only a hint, for which the vendor is asked
    INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
    SELECT n.tenant_id, n.id, '', now() FROM named n, recorded r
    WHERE $3 IN ('expired', 'failed') AND r.is_first AND r.phase = 'early'
      AND n.status IN ('created', 'recording') AND n.owed IS NULL
    ON CONFLICT (session_id, template_id) DO NOTHING
    RETURNING id
)
SELECT coalesce((SELECT phase FROM recorded), 'unknown') AS phase,
       coalesce((SELECT is_first FROM recorded), false) AS is_first,
       (SELECT count(*) FROM hurried) + (SELECT count(*) FROM mended) + (SELECT count(*) FROM probed) AS due;
