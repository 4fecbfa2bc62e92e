-- name: connections
-- How much was streamed and when. Before and after the session is locked: an open stream locks it in this order.
DELETE FROM stream_connections c USING sessions s
WHERE c.session_id = $1 AND s.id = c.session_id AND s.tenant_id = $2;

-- name: hold_destinations
-- Before their deliveries, as everybody does who changes deliveries.
SELECT id FROM destinations WHERE id IN (SELECT destination_id FROM deliveries WHERE session_id = $1)
ORDER BY id FOR SHARE;

-- name: webhooks
-- What the vendor told of the session, hashes of its words included.
DELETE FROM webhook_events WHERE session_id = $1;

-- name: session
-- Everything that identifies anybody; the row stays, so that the id is known as erased.
UPDATE sessions
SET erased_at = now(), settled_at = coalesce(settled_at, now()), details_sealed = NULL, patient_id_hash = NULL,
    reference_hash = NULL, upload_url_sealed = NULL, transcript_sealed = NULL, warnings_sealed = NULL,
    audio_missing = NULL, model_used = NULL, language_detected = NULL, error_message = NULL, vendor_files = NULL, change_lease = NULL, change_until = NULL
WHERE id = $1
RETURNING status;

-- name: chunks
-- What audio there was: sizes, hashes, names, times.
DELETE FROM chunks WHERE session_id = $1;

-- name: fetches
-- Calls that were made or still to be made: whoever makes one now has lost its lease.
DELETE FROM fetches WHERE session_id = $1;

-- name: documents
-- Documents keep their rows, so that their ids are known as erased.
UPDATE documents SET data_sealed = NULL, annotations_sealed = NULL, type = NULL, upstream_id = id, released_at = coalesce(released_at, now())
WHERE session_id = $1;

-- name: events
-- What was told to the EMR, or was to be.
UPDATE events SET body_sealed = NULL WHERE session_id = $1;

-- name: deliveries
-- That something was sent stays known; what was still to be sent is not, and an attempt under way records nothing.
UPDATE deliveries
SET record_id = NULL, lease = NULL, next_at = NULL,
    reason = CASE WHEN status IN ('pending', 'paused') THEN 'session_erased' ELSE reason END,
    settled_at = coalesce(settled_at, now()),
    status = CASE WHEN status IN ('pending', 'paused') THEN 'dead' ELSE status END
WHERE id IN (SELECT id FROM deliveries WHERE session_id = $1 ORDER BY id FOR UPDATE);

-- name: attempts
-- Hashes and sizes of what the EMR's side answered.
UPDATE attempts a SET response_sha256 = NULL, response_bytes = NULL
FROM deliveries d WHERE d.session_id = $1 AND a.delivery_id = d.id;

-- name: idempotency
-- The kept answers; the keys stay, so that a repeat learns that the session was erased.
UPDATE idempotency_keys SET answer_sealed = NULL, request_hash = '', lease = NULL, lease_until = NULL
WHERE tenant_id = $2 AND session_id = $1;

-- name: extent
-- How many rows the trail's entry speaks of, and one hash of all their ids, sorted by their bytes, a line each.
SELECT count(*) FILTER (WHERE kind = 'document') AS documents,
       count(*) FILTER (WHERE kind = 'delivery') AS deliveries,
       encode(sha256(convert_to(string_agg(id, E'\n' ORDER BY id COLLATE "C"), 'UTF8')), 'hex') AS sha256
FROM (SELECT 'session' AS kind, $1::text AS id
      UNION ALL SELECT 'document', id FROM documents WHERE session_id = $1
      UNION ALL SELECT 'delivery', id FROM deliveries WHERE session_id = $1) erased;
