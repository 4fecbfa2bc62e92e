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
