-- name: insert
-- Inserts a recording whose bytes are all here.
INSERT INTO recordings (session_id, tenant_id, bytes, seconds, sha256) VALUES ($1, $2, $3, $4, $5);

-- name: end_session
-- Ends the session of a recording here; its create call is held and due, and the others follow.
UPDATE sessions SET status = 'processing', ended_at = now(), held_since = now(), owed = 'create',
                    owed_next_at = now(), owed_lease = NULL, owed_attempts = 0
WHERE id = $1 AND tenant_id = $2
RETURNING templates;

-- name: uncut
-- Reads the recording of a session whose handover is leased to us, unless it is cut.
SELECT r.session_id, r.tenant_id, r.bytes, r.seconds, s.model
FROM sessions s JOIN recordings r ON r.session_id = s.id
WHERE s.id = $1 AND s.owed_lease = $2 AND r.cut_at IS NULL;

-- name: record_seconds
-- Records the length of a recording that came in pieces.
UPDATE recordings SET seconds = $2 WHERE session_id = $1;

-- name: delete_chunks
-- Deletes the chunks of an earlier try to cut a recording.
DELETE FROM chunks WHERE session_id = $1;

-- name: delete_chunk_blocks
-- Deletes the bytes of those chunks, and leaves those of the recording.
DELETE FROM audio_blocks WHERE session_id = $1 AND sequence >= 0;

-- name: hold_chunk
-- Inserts a chunk of a recording, which is held for the vendor.
INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name, held_at)
VALUES ($1, $2, $3, 'held', $4, $5, $6, $7, now());

-- name: record_cut
-- Records that all chunks of a recording are held.
UPDATE recordings SET cut_at = now(), chunks = $2 WHERE session_id = $1;
