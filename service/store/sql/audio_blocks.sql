-- name: insert
-- Stores one encrypted block of a chunk; an earlier upload of the same bytes may have stored it.
INSERT INTO audio_blocks (id, session_id, tenant_id, sequence, block, bytes, data_sealed, object_name)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (id) DO NOTHING;

-- name: read
-- Reads one block of a chunk: its encrypted bytes, or the encrypted key of its object.
SELECT id, data_sealed, object_name FROM audio_blocks WHERE session_id = $1 AND sequence = $2 AND block = $3;

-- name: delete_of_chunk
-- Deletes the bytes of a chunk that the vendor has, unless its session keeps them.
DELETE FROM audio_blocks b USING sessions s
WHERE b.session_id = $1 AND b.sequence = $2 AND s.id = b.session_id AND s.keep_audio_days IS NULL;

-- name: discard
-- Deletes the bytes of an upload that begins anew or is cancelled.
DELETE FROM audio_blocks WHERE session_id = $1 AND sequence = $2;

-- name: kept_bytes
-- Sums the audio that is kept: of one tenant, and in all.
SELECT coalesce(sum(bytes) FILTER (WHERE tenant_id = $1), 0)::bigint AS of_tenant,
       coalesce(sum(bytes), 0)::bigint AS in_all
FROM audio_blocks;

-- name: purge
-- Deletes blocks of sessions that have had their ending for so many seconds, or that failed before their start.
WITH due AS (
    SELECT b.id
    FROM audio_blocks b, LATERAL (SELECT * FROM sessions WHERE id = b.session_id LIMIT 1) s
    WHERE b.kept_at < now() - make_interval(secs => $1) AND s.keep_audio_days IS NULL
      AND CASE WHEN s.settled_at IS NOT NULL THEN s.settled_at
               WHEN s.status = 'failed' THEN s.created_at END < now() - make_interval(secs => $1)
    ORDER BY b.kept_at LIMIT $2 FOR UPDATE OF b SKIP LOCKED
)
DELETE FROM audio_blocks b USING due WHERE b.id = due.id
RETURNING b.session_id;
