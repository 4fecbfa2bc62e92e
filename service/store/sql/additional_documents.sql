-- name: of_template
-- How the call for a session's template stands.
SELECT status = 'pending' AS is_pending, asked, document_id, lease IS NOT NULL AND next_at > now() AS is_leased,
       CASE WHEN asked = 'asked' AND outcome IS DISTINCT FROM 'not_asked' THEN settled_at END AS asked_until
FROM fetches WHERE session_id = $1 AND template_id = $2;

-- name: begin
-- A further document, ours to ask the vendor for; a call for the same template that was done with starts anew.
INSERT INTO fetches (tenant_id, session_id, template_id, lease, next_at, asked)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), 'asking')
ON CONFLICT (session_id, template_id) DO UPDATE
SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
    hinted = false, document_id = NULL, asked = 'asking', lease = excluded.lease, next_at = excluded.next_at;

-- name: record_asked
-- The vendor makes the document; when to look for it.
UPDATE fetches SET asked = 'asked', document_id = $4, lease = NULL, next_at = now() + make_interval(secs => $5)
WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: leave
-- It is not known whether the vendor heard; when to find out.
UPDATE fetches SET lease = NULL, next_at = now() + make_interval(secs => $4)
WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: find
-- The call that is ours to make.
SELECT id FROM fetches WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: mark_asked
-- The vendor makes the further document: it is looked for at once.
UPDATE fetches SET asked = 'asked', document_id = $3, lease = NULL, next_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: drop
-- The vendor was never asked for a further document, of whose template there is none.
DELETE FROM fetches f WHERE f.id = $1 AND f.lease = $2 AND f.status = 'pending'
  AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.session_id = f.session_id AND d.template_id = f.template_id);

-- name: settle_unasked
-- The vendor was never asked for a further document, but there are others of its template, and they stay.
UPDATE fetches SET status = 'settled', outcome = 'not_asked', asked = 'asked', next_at = NULL, lease = NULL,
                   settled_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending';
