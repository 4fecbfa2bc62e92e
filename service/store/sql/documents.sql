-- name: latest
-- Reads the newest version of one document, encrypted.
SELECT id, version, coalesce(lineage, id) AS lineage, status, data_sealed, annotations_sealed FROM documents
WHERE session_id = $1 AND template_id = $2 AND upstream_id = $3
ORDER BY version DESC LIMIT 1;

-- name: insert
-- Inserts a document or a new version.
INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, type, status, data_sealed,
                       error_code, lineage, annotations_sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($11, $1), $12)
RETURNING (SELECT extract(epoch FROM clock_timestamp() - s.ended_at)::float8 FROM sessions s WHERE s.id = $3)
          AS since_end_seconds;

-- name: replaced_version
-- Reads the newest version that a new document may replace: one that is not in $3, or with NULL a failed one.
SELECT id, version, coalesce(lineage, id) AS lineage, status, data_sealed, annotations_sealed FROM documents
WHERE session_id = $1 AND template_id = $2
  AND CASE WHEN $3::text[] IS NULL THEN status = 'failed' ELSE NOT upstream_id = ANY($3) END
ORDER BY version DESC, received_at DESC LIMIT 1;

-- name: known
-- Lists the vendor's ids of a template's documents.
SELECT DISTINCT upstream_id FROM documents WHERE session_id = $1 AND template_id = $2;

-- name: unreleased
-- Lists documents without an event, each with the version before it.
SELECT d.id, d.template_id, d.upstream_id, d.version, d.type, d.status, d.data_sealed, d.error_code,
       d.annotations_sealed,
       (SELECT b.id FROM documents b
        WHERE b.session_id = d.session_id AND coalesce(b.lineage, b.id) = coalesce(d.lineage, d.id) AND b.version = d.version - 1
        ORDER BY b.received_at DESC LIMIT 1) AS replaces
FROM documents d WHERE d.session_id = $1 AND d.released_at IS NULL ORDER BY d.received_at, d.id;

-- name: mark_released
-- Records that the events of these documents are in the outbox.
UPDATE documents SET released_at = now() WHERE id = ANY($1);

-- name: of_session
-- Lists the newest version of each document of a session, without replaced documents and without large data.
SELECT d.id, d.session_id, d.template_id, d.upstream_id, d.version, d.type, d.status, d.error_code, d.annotations_sealed,
       d.received_at, octet_length(d.data_sealed) AS data_bytes,
       CASE WHEN sum(octet_length(d.data_sealed)) OVER () <= 65536 THEN d.data_sealed END AS data_sealed
FROM (SELECT DISTINCT ON (template_id, upstream_id) *
      FROM documents
      WHERE tenant_id = $1 AND session_id = $2 AND ($3::text IS NULL OR template_id = $3)
      ORDER BY template_id, upstream_id, version DESC) d
WHERE NOT EXISTS (
    -- The same condition as in sessions.document_summaries.
    SELECT 1 FROM documents e
    WHERE e.session_id = d.session_id AND e.template_id = d.template_id AND e.upstream_id <> d.upstream_id
      AND e.version > d.version AND (e.status = 'success' OR d.status = 'failed')
      AND (d.status = 'failed' OR EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = d.session_id
                                          AND f.template_id = d.template_id AND f.asked IS NOT NULL))
      AND NOT EXISTS (SELECT 1 FROM documents b
                      WHERE b.session_id = e.session_id AND b.template_id = e.template_id
                        AND b.upstream_id = e.upstream_id AND b.version <= d.version)
)
ORDER BY d.template_id, d.upstream_id;

-- name: data
-- Reads the data of these documents, encrypted.
SELECT id, data_sealed FROM documents WHERE tenant_id = $1 AND id = ANY($2);

-- name: one
-- Reads one document in any version, with its session's encrypted details and missing audio.
SELECT d.id, d.session_id, d.template_id, d.upstream_id, d.version, d.type, d.status, d.error_code, d.annotations_sealed,
       d.received_at, octet_length(d.data_sealed) AS data_bytes,
       CASE WHEN octet_length(d.data_sealed) <= 65536 THEN d.data_sealed END AS data_sealed,
       s.details_sealed, s.audio_missing, s.erased_at IS NOT NULL AS is_erased FROM documents d JOIN sessions s ON s.id = d.session_id
WHERE d.tenant_id = $1 AND d.id = $2;

-- name: session_details
-- Reads the encrypted details of a session and its missing audio.
SELECT details_sealed, audio_missing, erased_at IS NOT NULL AS is_erased FROM sessions WHERE tenant_id = $1 AND id = $2;
