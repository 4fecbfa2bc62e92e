-- name: session
-- Reads one session for the vendor's own protocol, with its file names in order; no row for an erased one.
SELECT s.id, s.status, s.upload, s.templates, s.details_sealed, s.model_used,
       octet_length(s.transcript_sealed) AS transcript_bytes,
       CASE WHEN octet_length(s.transcript_sealed) <= 65536 THEN s.transcript_sealed END AS transcript_sealed,
       s.language_detected, s.error_code, s.error_message, s.vendor_files, s.created_at, s.expires_at,
       s.settled_at, s.status IN ('created', 'recording') AND s.expires_at <= now() AS is_past,
       ARRAY(SELECT c.file_name FROM chunks c WHERE c.session_id = s.id AND c.status = 'stored'
             ORDER BY c.sequence) AS files
FROM sessions s WHERE s.tenant_id = $1 AND s.id = $2 AND s.erased_at IS NULL;

-- name: pending
-- Checks whether a fetch may still bring a document of this template or vendor id.
SELECT 1 FROM fetches
WHERE session_id = $1 AND status = 'pending'
  AND ($2::text IS NULL OR template_id = $2) AND ($3::text IS NULL OR document_id = $3)
LIMIT 1;

-- name: token_expiry
-- Returns when a token ends, in Unix seconds of the database's clock, which all pods share.
SELECT extract(epoch FROM now() + make_interval(secs => $1))::bigint AS expires;
