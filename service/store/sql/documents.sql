-- name: latest
-- The newest version of one document, sealed.
SELECT id, version, status, data_sealed FROM documents
WHERE session_id = $1 AND template_id = $2 AND upstream_id = $3
ORDER BY version DESC LIMIT 1;

-- name: insert
-- A document, or a new version of one.
INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, type, status, data_sealed,
                       error_code)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: statuses
-- How the documents of a session stand, newest versions only.
SELECT DISTINCT ON (template_id, upstream_id) template_id, status
FROM documents WHERE session_id = $1 ORDER BY template_id, upstream_id, version DESC;

-- name: unreleased
-- Documents of which no event was made yet.
SELECT id, template_id, upstream_id, version, type, status, data_sealed, error_code
FROM documents WHERE session_id = $1 AND released_at IS NULL ORDER BY received_at, id;

-- name: mark_released
-- Their events are in the outbox.
UPDATE documents SET released_at = now() WHERE id = ANY($1);

-- name: of_session
-- The newest version of each document of a session.
SELECT DISTINCT ON (d.template_id, d.upstream_id) d.*
FROM documents d
WHERE d.tenant_id = $1 AND d.session_id = $2 AND ($3::text IS NULL OR d.template_id = $3)
ORDER BY d.template_id, d.upstream_id, d.version DESC;

-- name: one
-- One document, any version, with its session's sealed details.
SELECT d.*, s.details_sealed FROM documents d JOIN sessions s ON s.id = d.session_id
WHERE d.tenant_id = $1 AND d.id = $2;

-- name: session_details
-- The sealed details of a session.
SELECT details_sealed FROM sessions WHERE tenant_id = $1 AND id = $2;
