-- name: earlier
-- Reads what is held of a stream: how much of it the vendor took, and whether earlier audio is not held.
SELECT t.held_taken_bytes, t.held_is_whole,
       (SELECT array_agg(c.sequence ORDER BY c.sequence) FROM chunks c
        WHERE c.session_id = t.session_id AND c.status = 'held') AS sequences,
       EXISTS (SELECT FROM stream_connections o WHERE o.session_id = t.session_id AND o.lease <> t.lease
               AND (o.bytes > 0 OR o.closed_at IS NULL)) AS has_earlier
FROM streams t WHERE t.session_id = $1 AND t.lease = $2;

-- name: part
-- Reads what is held of an ended stream whose end call is leased to us, and the vendor's address of it.
SELECT coalesce(s.vendor_session_id, s.id) AS vendor_id, s.upload_url_sealed, t.held_taken_bytes, t.held_is_whole,
       array_agg(c.sequence ORDER BY c.sequence) AS sequences
FROM sessions s JOIN streams t ON t.session_id = s.id JOIN chunks c ON c.session_id = s.id AND c.status = 'held'
WHERE s.id = $1 AND s.owed_lease = $2 AND s.upload = 'stream' AND s.vendor_session_id IS NULL
GROUP BY s.id, t.session_id;

-- name: record_taken
-- Records how much of the held audio of an ended stream the vendor's stream took.
UPDATE streams t SET held_taken_bytes = $3 FROM sessions s
WHERE t.session_id = $1 AND s.id = t.session_id AND s.owed_lease = $2;

-- name: drop_part
-- Deletes the held audio of an ended stream, because the vendor's stream took all of it.
WITH dropped AS (
    DELETE FROM chunks c USING sessions s
    WHERE s.id = $1 AND s.owed_lease = $2 AND c.session_id = s.id AND c.status = 'held'
    RETURNING c.session_id, c.sequence
)
DELETE FROM audio_blocks b USING dropped d WHERE b.session_id = d.session_id AND b.sequence = d.sequence;

-- name: lock
-- Locks the session of a stream whose audio is about to be held; no row if the stream's lease was lost.
SELECT s.id FROM sessions s
WHERE s.id = $1 AND s.erased_at IS NULL AND s.status IN ('created', 'recording', 'processing')
  AND EXISTS (SELECT FROM streams t WHERE t.session_id = s.id AND t.lease = $2)
FOR NO KEY UPDATE;

-- name: hold_piece
-- Holds a piece of a stream as a chunk, in place of an earlier state of it.
INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type, file_name, held_at)
VALUES ($1, $2, $3, 'held', $4, $5, $6, $7, now())
ON CONFLICT (session_id, sequence) DO UPDATE SET sha256 = excluded.sha256, bytes = excluded.bytes
WHERE chunks.status = 'held'
RETURNING sequence;

-- name: record_held
-- Records how much of the held audio the vendor's stream took, and whether it is all of the session's audio.
UPDATE streams SET held_taken_bytes = $3, held_is_whole = $4 WHERE session_id = $1 AND lease = $2;

-- name: drop_held
-- Deletes the held audio of a stream, because the vendor's stream took all of it.
WITH holder AS (
    UPDATE streams SET held_taken_bytes = 0, held_is_whole = true WHERE session_id = $1 AND lease = $2
    RETURNING session_id
), dropped AS (
    DELETE FROM chunks c USING holder h WHERE c.session_id = h.session_id AND c.status = 'held'
    RETURNING c.session_id, c.sequence
)
DELETE FROM audio_blocks b USING dropped d WHERE b.session_id = d.session_id AND b.sequence = d.sequence;

-- name: record_interruption
-- Records that the vendor's side of a stream went away, or is back.
INSERT INTO stream_interruptions (lease, number, session_id, began_at, cause, held_frames, replayed_bytes, resumed_at)
SELECT c.lease, $3, c.session_id, now() - make_interval(secs => $5), $4, $6, $7, CASE WHEN $8 THEN now() END
FROM stream_connections c WHERE c.lease = $2 AND c.session_id = $1
ON CONFLICT (lease, number) DO UPDATE
SET held_frames = excluded.held_frames, replayed_bytes = excluded.replayed_bytes, resumed_at = excluded.resumed_at;
