-- name: find
-- Reads the session of a stream's address.
SELECT id, coalesce(vendor_session_id, id) AS vendor_id, tenant_id, account, status, upload, owed,
       held_since IS NOT NULL AS is_held, keep_audio_days IS NOT NULL AS keeps_audio, erased_at IS NOT NULL AS is_erased, expires_at <= now() AS is_past,
       upload_url_sealed
FROM sessions WHERE id = $1;

-- name: claim
-- Leases the stream of a session that accepts audio, unless another connection holds it.
WITH session AS (
    SELECT id FROM sessions
    WHERE id = $1 AND upload = 'stream' AND status IN ('created', 'recording') AND expires_at > now()
      AND (owed IS NULL OR (owed = 'create' AND held_since IS NOT NULL))
    FOR SHARE
), taken AS (
    INSERT INTO streams (session_id, lease, lease_until)
    SELECT id, $2, now() + make_interval(secs => $3) FROM session
    ON CONFLICT (session_id) DO UPDATE
    SET lease = excluded.lease, lease_until = excluded.lease_until, heard_at = now(), is_yielding = false
    WHERE streams.lease IS NULL OR streams.lease_until <= now()
    RETURNING session_id, lease
)
INSERT INTO stream_connections (lease, session_id) SELECT lease, session_id FROM taken RETURNING lease;

-- name: ask_to_yield
-- Asks the holder to release the stream; no row if its client sent anything lately.
UPDATE streams SET is_yielding = true
WHERE session_id = $1
  AND (is_yielding OR lease IS NULL OR lease_until <= now() OR heard_at <= now() - make_interval(secs => $2))
RETURNING session_id;

-- name: let_go
-- Marks that the holder flushes its last frames: a new connection waits for it.
UPDATE streams SET is_yielding = true WHERE session_id = $1 AND lease = $2;

-- name: look
-- Returns for a process's streams whether another connection asked for them, and their sessions' state.
SELECT t.session_id, t.lease, t.is_yielding, s.status, s.erased_at IS NOT NULL AS is_erased
FROM streams t JOIN sessions s ON s.id = t.session_id WHERE t.session_id = ANY($1);

-- name: beat
-- Renews the leases of a process's streams and records their progress.
WITH beats AS (
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[], $5::bigint[])
        AS beat (session_id, lease, was_heard, frames, bytes)
), renewed AS (
    UPDATE streams t SET lease_until = now() + make_interval(secs => $6),
                         heard_at = CASE WHEN beats.was_heard THEN now() ELSE t.heard_at END
    FROM beats WHERE t.session_id = beats.session_id AND t.lease = beats.lease
), begun AS (
    UPDATE sessions s SET status = 'recording'
    FROM beats WHERE s.id = beats.session_id AND s.status = 'created' AND beats.bytes > 0
)
UPDATE stream_connections c SET frames = beats.frames, bytes = beats.bytes
FROM beats WHERE c.lease = beats.lease AND c.closed_at IS NULL;

-- name: release
-- Records the end of a connection and frees the stream.
WITH begun AS (
    UPDATE sessions SET status = 'recording' WHERE id = $1 AND status = 'created' AND $6::bigint > 0
), freed AS (
    UPDATE streams SET lease = NULL, lease_until = NULL, is_yielding = false WHERE session_id = $1 AND lease = $2
)
UPDATE stream_connections SET closed_at = now(), cause = $3, code = $4, frames = $5, bytes = $6
WHERE lease = $2 AND closed_at IS NULL;

-- name: is_open
-- Checks whether a connection holds a session's stream, or still flushes its last frames.
SELECT 1 FROM streams WHERE session_id = $1 AND lease_until > now();

-- name: has_audio
-- Checks whether a stream brought audio, or may have before its process died, and whether it is open.
SELECT bool_or(c.bytes > 0 OR (c.closed_at IS NULL AND h.lease IS NULL)) AS has_audio,
       bool_or(h.lease IS NOT NULL) AS is_open
FROM stream_connections c
LEFT JOIN streams h ON h.session_id = c.session_id AND h.lease = c.lease AND h.lease_until > now()
WHERE c.session_id = $1;
