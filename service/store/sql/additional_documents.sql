-- name: of_template
-- Returns the state of the fetch for a template of a session.
SELECT status = 'pending' AS is_pending, asked, document_id, lease IS NOT NULL AND next_at > now() AS is_leased,
       CASE WHEN asked = 'asked' AND outcome IS DISTINCT FROM 'not_asked' THEN settled_at END AS asked_until
FROM fetches WHERE session_id = $1 AND template_id = $2;

-- name: begin
-- Inserts the fetch of an additional document, leased to us; a settled fetch of the same template starts again.
INSERT INTO fetches (tenant_id, session_id, template_id, lease, next_at, asked)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), 'asking')
ON CONFLICT (session_id, template_id) DO UPDATE
SET status = 'pending', outcome = NULL, settled_at = NULL, last_error = NULL, attempts = 0, missing = 0,
    hinted = false, document_id = NULL, asked = 'asking', lease = excluded.lease, next_at = excluded.next_at;

-- name: record_asked
-- Records that the vendor makes the document, and when the fetch is due.
UPDATE fetches SET asked = 'asked', document_id = $4, lease = NULL, next_at = now() + make_interval(secs => $5)
WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: leave
-- Releases a request with an unknown outcome until a worker asks the vendor.
UPDATE fetches SET lease = NULL, next_at = now() + make_interval(secs => $4)
WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: find
-- Finds the fetch that we hold a lease on.
SELECT id FROM fetches WHERE session_id = $1 AND template_id = $2 AND lease = $3;

-- name: mark_asked
-- Records that the vendor makes the document; the fetch is due at once.
UPDATE fetches SET asked = 'asked', document_id = $3, lease = NULL, next_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: drop
-- Deletes the fetch of a document that the vendor was never asked for, if its template has no document.
DELETE FROM fetches f WHERE f.id = $1 AND f.lease = $2 AND f.status = 'pending'
  AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.session_id = f.session_id AND d.template_id = f.template_id);

-- name: settle_unasked
-- Settles the fetch of a document that the vendor was never asked for; older documents of its template stay.
UPDATE fetches SET status = 'settled', outcome = 'not_asked', asked = 'asked', next_at = NULL, lease = NULL,
                   settled_at = now()
WHERE id = $1 AND lease = $2 AND status = 'pending';
