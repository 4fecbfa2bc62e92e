-- name: extent
-- Counts the chunks of a session whose bytes are kept.
SELECT s.erased_at IS NOT NULL AS is_erased,
       (SELECT count(DISTINCT b.sequence) FROM audio_blocks b WHERE b.session_id = s.id) AS chunks
FROM sessions s WHERE s.tenant_id = $1 AND s.id = $2;

-- name: chunks
-- Lists the chunks of a session whose bytes are kept.
SELECT c.sequence, c.file_name, c.content_type, c.bytes, c.sha256
FROM chunks c
WHERE c.tenant_id = $1 AND c.session_id = $2
  AND EXISTS (SELECT FROM audio_blocks b WHERE b.session_id = c.session_id AND b.sequence = c.sequence)
ORDER BY c.sequence;
