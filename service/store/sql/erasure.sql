-- name: connections
-- Deletes the session's stream connections, before and after the session is locked: an open stream locks in this order.
DELETE FROM stream_connections c USING sessions s
WHERE c.session_id = $1 AND s.id = c.session_id AND s.tenant_id = $2;

-- name: hold_destinations
-- Locks the destinations before their deliveries, the lock order of every change.
SELECT id FROM destinations WHERE id IN (SELECT destination_id FROM deliveries WHERE session_id = $1)
ORDER BY id FOR SHARE;

-- name: webhooks
-- Erases the webhook events of the session, hashes of their bodies included; they name one of its ids at the vendor.
DELETE FROM webhook_events w USING sessions s WHERE s.id = $1 AND w.session_id IN (s.id, s.vendor_session_id);

-- name: session
-- Erases all personal data of the session; the row stays, so that its id is known as erased.
UPDATE sessions
SET erased_at = now(), settled_at = coalesce(settled_at, now()), details_sealed = NULL, patient_id_hash = NULL,
    reference_hash = NULL, upload_url_sealed = NULL, transcript_sealed = NULL, warnings_sealed = NULL,
    audio_missing = NULL, model_used = NULL, language_detected = NULL, error_message = NULL, vendor_files = NULL,
    held_since = NULL, change_lease = NULL, change_until = NULL
WHERE id = $1
RETURNING status;

-- name: audio_blocks
-- Erases the audio that is kept.
DELETE FROM audio_blocks WHERE session_id = $1;

-- name: chunks
-- Erases sizes, hashes, names and times of the audio.
DELETE FROM chunks WHERE session_id = $1;

-- name: fetches
-- Deletes the fetches: a worker in the middle of one loses its lease.
DELETE FROM fetches WHERE session_id = $1;

-- name: documents
-- Erases documents; their rows stay, so that their ids are known as erased.
UPDATE documents SET data_sealed = NULL, annotations_sealed = NULL, type = NULL, upstream_id = id, released_at = coalesce(released_at, now())
WHERE session_id = $1;

-- name: events
-- Erases the events for the EMR, sent or not.
UPDATE events SET body_sealed = NULL WHERE session_id = $1;

-- name: deliveries
-- Ends waiting deliveries; the record of sent ones stays.
WITH held AS (
    SELECT id, status = 'pending' AND lease IS NOT NULL AS is_under_way FROM deliveries
    WHERE session_id = $1 ORDER BY id FOR UPDATE
), told AS (  -- An attempt in flight may have left: its worker keeps the lease and records the outcome.
    INSERT INTO attempts (delivery_id, at, error_class, duration_ms)
    SELECT id, now(), 'on_its_way', 0 FROM held WHERE is_under_way
)
UPDATE deliveries d
SET record_id = NULL, lease = CASE WHEN h.is_under_way THEN lease END, next_at = NULL,
    attempts = attempts + h.is_under_way::integer,
    reason = CASE WHEN status IN ('pending', 'paused') THEN 'session_erased' ELSE reason END,
    settled_at = coalesce(settled_at, now()),
    status = CASE WHEN status IN ('pending', 'paused') THEN 'dead' ELSE status END
FROM held h WHERE d.id = h.id;

-- name: attempts
-- Erases hashes and sizes of the destinations' answers.
UPDATE attempts a SET response_sha256 = NULL, response_bytes = NULL
FROM deliveries d WHERE d.session_id = $1 AND a.delivery_id = d.id;

-- name: idempotency
-- Erases the kept answers; the keys stay, so that a repeat learns of the erasure.
UPDATE idempotency_keys SET answer_sealed = NULL, request_hash = '', lease = NULL, lease_until = NULL
WHERE tenant_id = $2 AND session_id = $1;

-- name: extent
-- Counts the session's rows and hashes their ids (sorted by bytes, one a line) for the audit entry.
SELECT count(*) FILTER (WHERE kind = 'document') AS documents,
       count(*) FILTER (WHERE kind = 'delivery') AS deliveries,
       encode(sha256(convert_to(string_agg(id, E'\n' ORDER BY id COLLATE "C"), 'UTF8')), 'hex') AS sha256
FROM (SELECT 'session' AS kind, $1::text AS id
      UNION ALL SELECT 'document', id FROM documents WHERE session_id = $1
      UNION ALL SELECT 'delivery', id FROM deliveries WHERE session_id = $1) erased;
