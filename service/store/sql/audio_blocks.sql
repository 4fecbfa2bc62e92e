-- name: insert
-- Stores one encrypted block of a chunk; an earlier upload of the same bytes may have stored it.
INSERT INTO audio_blocks (id, session_id, tenant_id, sequence, block, bytes, data_sealed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING;

-- name: read
-- Reads one encrypted block of a chunk.
SELECT id, data_sealed FROM audio_blocks WHERE session_id = $1 AND sequence = $2 AND block = $3;

-- name: delete_of_chunk
-- Deletes the bytes of a chunk that the vendor has, unless its session keeps them.
DELETE FROM audio_blocks b USING sessions s
WHERE b.session_id = $1 AND b.sequence = $2 AND s.id = b.session_id AND s.keep_audio_days IS NULL;

-- name: kept_bytes
-- Sums the audio that is kept: of one tenant, and in all.
SELECT coalesce(sum(bytes) FILTER (WHERE tenant_id = $1), 0)::bigint AS of_tenant,
       coalesce(sum(bytes), 0)::bigint AS in_all
FROM audio_blocks;
