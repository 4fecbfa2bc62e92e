-- name: extent
-- Counts the chunks of a session whose bytes are kept.
SELECT s.erased_at IS NOT NULL AS is_erased,
       (SELECT count(DISTINCT b.sequence) FROM audio_blocks b WHERE b.session_id = s.id) AS chunks
FROM sessions s WHERE s.tenant_id = $1 AND s.id = $2;

-- name: chunks
-- Lists the chunks of a session whose bytes are kept; a whole recording that is kept stands for them.
WITH kept AS (SELECT DISTINCT sequence FROM audio_blocks WHERE session_id = $2)
SELECT c.sequence, c.file_name, c.content_type, c.bytes, c.sha256
FROM chunks c JOIN kept ON kept.sequence = c.sequence
WHERE c.tenant_id = $1 AND c.session_id = $2 AND NOT EXISTS (SELECT FROM kept WHERE sequence = -1)
UNION ALL
SELECT -1, 'recording.bin', 'application/octet-stream', r.bytes, r.sha256
FROM recordings r WHERE r.tenant_id = $1 AND r.session_id = $2 AND EXISTS (SELECT FROM kept WHERE sequence = -1)
ORDER BY sequence;
