-- name: insert_event
-- What there is to tell, frozen.
INSERT INTO events (tenant_id, session_id, document_id, type, template_id, body_sealed)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id;

-- name: destinations_for
-- The tenant's destinations that want this event; one that is off gets it when it is on again.
SELECT id, enabled FROM destinations
WHERE tenant_id = $1 AND removed_at IS NULL
  AND (cardinality(events) = 0 OR $2 = ANY(events))
  AND (cardinality(templates) = 0 OR $3::text IS NULL OR $3 = ANY(templates))
FOR SHARE;

-- name: insert
-- One delivery per destination: the outbox.
INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, destination_id, type, status, next_at,
                        reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN 'pending' ELSE 'paused' END,
        CASE WHEN $8 THEN now() END, CASE WHEN NOT $8 THEN 'destination_disabled' END);

-- name: claim
-- Leases deliveries that are due, of one session or of any, with all that a call needs.
WITH due AS (
    SELECT d.id FROM deliveries d JOIN destinations t ON t.id = d.destination_id
    WHERE d.status = 'pending' AND d.next_at <= now() AND ($1::text IS NULL OR d.session_id = $1) AND t.enabled
    ORDER BY d.next_at LIMIT $2 FOR UPDATE OF d SKIP LOCKED
)
UPDATE deliveries d SET lease = gen_random_uuid(), next_at = now() + make_interval(secs => $3)
FROM due, events e, destinations t
WHERE d.id = due.id AND e.id = d.event_id AND t.id = d.destination_id
RETURNING d.id, d.lease, d.tenant_id, d.session_id, d.destination_id, d.type, d.attempts, d.scheduled,
          e.id AS event_id, e.body_sealed, t.url_sealed, t.headers_sealed, t.secrets_sealed, t.timeout_seconds;

-- name: lock_destination
-- Holds a destination as it is while an attempt at it is recorded.
SELECT enabled FROM destinations WHERE id = $1 FOR SHARE;

-- name: lock_to_pause
-- Holds a destination that may be turned off.
SELECT enabled FROM destinations WHERE id = $1 FOR UPDATE;

-- name: record_attempt
-- One call and how it went, and where the delivery stands now; fenced by the lease.
WITH held AS (  -- what would be sent again to a destination that was turned off meanwhile waits instead
    SELECT d.id, CASE WHEN $3 = 'pending' AND NOT t.enabled THEN 'paused' ELSE $3 END AS status
    FROM deliveries d JOIN destinations t ON t.id = d.destination_id
    WHERE d.id = $1 AND d.lease = $2
    FOR UPDATE OF d
), delivery AS (
    UPDATE deliveries d
    SET status = held.status, attempts = attempts + 1, scheduled = scheduled + $4, lease = NULL, reason = $6,
        record_id = coalesce($7, record_id),
        next_at = CASE WHEN held.status = 'pending' THEN now() + make_interval(secs => $5) END,
        settled_at = CASE WHEN held.status IN ('delivered', 'filed', 'dead') THEN now() END
    FROM held WHERE d.id = held.id
    RETURNING d.id
)
INSERT INTO attempts (delivery_id, at, status_code, error_class, duration_ms, response_bytes, response_sha256)
SELECT id, now() - make_interval(secs => $8), $9, $10, $11, $12, $13 FROM delivery
RETURNING delivery_id;

-- name: pause_destination
-- The destination is off until somebody turns it on; what waits for it waits.
UPDATE destinations SET enabled = false, paused_reason = $2 WHERE id = $1 AND enabled;

-- name: pause_deliveries
-- What waits for a destination that is off, except what is being sent this moment.
UPDATE deliveries SET status = 'paused', next_at = NULL, reason = $2
WHERE destination_id = $1 AND status = 'pending' AND lease IS NULL;

-- name: page
-- One page of a tenant's deliveries, newest first.
SELECT * FROM deliveries
WHERE tenant_id = $1
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR destination_id = $3)
  AND ($4::text IS NULL OR session_id = $4)
  AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6))
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: one
-- One delivery.
SELECT * FROM deliveries WHERE tenant_id = $1 AND id = $2;

-- name: attempts
-- The attempts at one delivery, in order.
SELECT at, status_code, error_class, duration_ms FROM attempts WHERE delivery_id = $1 ORDER BY id;

-- name: retry
-- A dead delivery is due again, with the same id and a fresh schedule.
UPDATE deliveries SET status = 'pending', next_at = now(), lease = NULL, scheduled = 0, reason = NULL,
                      settled_at = NULL
WHERE tenant_id = $1 AND id = $2 AND status = 'dead'
  AND EXISTS (SELECT 1 FROM destinations t WHERE t.id = destination_id AND t.enabled)
  AND EXISTS (SELECT 1 FROM events e WHERE e.id = event_id AND e.body_sealed IS NOT NULL)
RETURNING id;

-- name: resume
-- What waited for a destination that is on again is due now, its schedule where it was.
UPDATE deliveries SET status = 'pending', next_at = now(), reason = NULL
WHERE destination_id = $1 AND status = 'paused';
