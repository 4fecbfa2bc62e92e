-- name: insert_event
-- Inserts an event as it will be sent, encrypted; it never changes.
INSERT INTO events (tenant_id, session_id, document_id, type, template_id, body_sealed)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id;

-- name: destinations_for
-- Lists the tenant's destinations for an event; one that is off gets it when it is on again.
SELECT id, enabled FROM destinations
WHERE tenant_id = $1 AND removed_at IS NULL
  AND (cardinality(events) = 0 OR $2 = ANY(events))
  AND (cardinality(templates) = 0 OR $3::text IS NULL OR $3 = ANY(templates))
FOR SHARE;

-- name: insert
-- Inserts one delivery for each destination: the outbox.
INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, destination_id, type, status, next_at,
                        reason, lineage, version)
VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN 'pending' ELSE 'paused' END,
        CASE WHEN $8 THEN now() END, CASE WHEN NOT $8 THEN 'destination_disabled' END,
        (SELECT coalesce(lineage, id) FROM documents WHERE id = $5), (SELECT version FROM documents WHERE id = $5));

-- name: claim_alone
-- Lets only one worker claim at a time, so that each sees the deliveries that the others have in flight.
SELECT pg_advisory_xact_lock(4711001);

-- name: claim
-- Leases due deliveries, of one session or of any, fairly over destinations, with all that a call needs.
WITH RECURSIVE jumps AS (  -- destinations with waiting deliveries, found by jumps along the index
    (SELECT destination_id FROM deliveries
     WHERE status = 'pending' AND $1::text IS NULL ORDER BY destination_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.destination_id FROM deliveries d
            WHERE d.status = 'pending' AND d.destination_id > j.destination_id
            ORDER BY d.destination_id LIMIT 1)
    FROM jumps j WHERE j.destination_id IS NOT NULL
), wanted AS (
    SELECT destination_id AS id FROM jumps WHERE destination_id IS NOT NULL
    UNION
    SELECT destination_id FROM deliveries WHERE session_id = $1 AND status = 'pending'
), metered AS MATERIALIZED (  -- destinations with a rate or an open breaker: the claim writes to their rows
    SELECT t.id, t.failures, t.hangs, t.timeout_seconds, t.rate_per_second AS rate, t.probe_at,
           -- A sweep that comes a little late loses no slot, and a long silence earns none.
           CASE WHEN t.next_slot_at > statement_timestamp() - interval '50 milliseconds' THEN t.next_slot_at
                ELSE statement_timestamp() END AS slot
    FROM destinations t JOIN wanted USING (id)
    WHERE t.enabled AND (t.rate_per_second IS NOT NULL OR t.probe_at IS NOT NULL)
      AND (t.retry_after_until IS NULL OR t.retry_after_until <= statement_timestamp())
      AND t.tenant_id <> ALL($6::text[])
      AND (t.hangs = 0 OR NOT ARRAY['silent', 'silent:' || t.tenant_id] && $6)
    ORDER BY t.id
    FOR NO KEY UPDATE OF t
), gates AS (
    SELECT id, failures, hangs, greatest($3::float8, timeout_seconds + 5) AS lease, rate, slot,
           probe_at IS NOT NULL AS is_open,
           probe_at IS NOT NULL AND probe_at <= statement_timestamp() AS is_probing,
           CASE WHEN rate IS NULL THEN $4::integer
                WHEN slot > statement_timestamp() THEN 0
                ELSE 1 + floor(extract(epoch FROM statement_timestamp() - slot) * rate) END AS slots
    FROM metered
    UNION ALL
    SELECT t.id, t.failures, t.hangs, greatest($3::float8, t.timeout_seconds + 5), NULL, NULL, false, false, $4::integer
    FROM destinations t JOIN wanted USING (id)
    WHERE t.enabled AND t.rate_per_second IS NULL AND t.probe_at IS NULL
      AND (t.retry_after_until IS NULL OR t.retry_after_until <= statement_timestamp())
      AND t.tenant_id <> ALL($6::text[])
      AND (t.hangs = 0 OR NOT ARRAY['silent', 'silent:' || t.tenant_id] && $6)
), rooms AS (  -- a destination that keeps failing, or hangs, gets one call at a time even before its breaker opens
    SELECT g.id, g.lease, g.rate, g.slot, g.is_open, g.is_probing, g.hangs > 0 AS is_silent, flying.number AS flying,
           least(g.slots, CASE WHEN g.failures >= $5::integer OR g.hangs > 0 THEN 1 ELSE $4::integer END - flying.number)::integer AS room
    FROM gates g, LATERAL (
        SELECT count(*) AS number FROM deliveries f
        WHERE f.destination_id = g.id AND f.status = 'pending' AND f.lease IS NOT NULL
          AND f.next_at > statement_timestamp()
          AND f.next_at <= statement_timestamp() + make_interval(secs => g.lease)
    ) flying
), chosen AS (
    -- Destinations without a call in flight come first: many hanging calls would use up every free permit otherwise.
    SELECT found.id, found.event_id, found.tenant_id, found.next_at, r.is_silent,
           r.flying + row_number() OVER (PARTITION BY r.id ORDER BY found.next_at) AS place
    FROM rooms r, LATERAL (
        (SELECT d.id, d.event_id, d.tenant_id, d.next_at FROM deliveries d
         WHERE NOT r.is_open AND d.destination_id = r.id AND d.status = 'pending'
           AND d.next_at <= statement_timestamp() AND ($1 IS NULL OR d.session_id = $1)
           -- An older version goes first, and never overtakes a newer one in flight. A scalar, so that
           -- each row costs one lookup in the index of versions.
           AND (d.lineage IS NULL OR (
               SELECT true FROM deliveries o
               WHERE o.destination_id = d.destination_id AND o.lineage = d.lineage AND o.version <> d.version AND o.status = 'pending'
                 AND (o.version < d.version OR (o.lease IS NOT NULL AND o.next_at > statement_timestamp()))
               LIMIT 1) IS NULL)
         ORDER BY d.next_at LIMIT greatest(r.room, 0))
        UNION ALL
        (SELECT d.id, d.event_id, d.tenant_id, d.next_at FROM deliveries d
         WHERE r.is_probing AND r.room > 0 AND d.destination_id = r.id AND d.status = 'pending'
           AND (d.lease IS NULL OR d.next_at <= statement_timestamp())
           AND (d.lineage IS NULL OR (
               SELECT true FROM deliveries o
               WHERE o.destination_id = d.destination_id AND o.lineage = d.lineage AND o.version <> d.version AND o.status = 'pending'
                 AND (o.version < d.version OR (o.lease IS NOT NULL AND o.next_at > statement_timestamp()))
               LIMIT 1) IS NULL)
         -- A delivery with a Retry-After is due early only if a person ended the destination's wait.
         ORDER BY d.type <> 'ping', coalesce(d.not_before > statement_timestamp(), false), d.next_at LIMIT 1)
    ) found
    ORDER BY r.is_silent, place, found.next_at LIMIT $2
), sized AS (  -- large bodies in order, with NULL as the size for a tenant that holds its quota of memory
    SELECT c.id, body.size, sum(body.size) OVER (ORDER BY c.is_silent, c.place, c.next_at, c.id) AS total
    FROM chosen c, LATERAL (
        SELECT CASE WHEN octet_length(e.body_sealed) > 65536
                    THEN CASE WHEN 'large:' || c.tenant_id <> ALL($6::text[]) THEN octet_length(e.body_sealed) END
                    ELSE 0 END AS size
        FROM events e WHERE e.id = c.event_id
    ) body
), locked AS (  -- a large body without memory waits, and so do all large ones behind it: it would starve otherwise
    SELECT d.id FROM deliveries d
    WHERE d.id = ANY(ARRAY(SELECT id FROM sized WHERE size = 0 OR size > 0 AND (total <= $7::bigint OR total = size AND $8::boolean)))
      AND d.status = 'pending' FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE deliveries d
    SET lease = gen_random_uuid(), next_at = statement_timestamp() + make_interval(secs => r.lease)
    FROM rooms r WHERE d.id = ANY(ARRAY(SELECT id FROM locked)) AND r.id = d.destination_id
    RETURNING d.*
), begun AS (
    UPDATE destinations t
    SET next_slot_at = CASE WHEN r.rate IS NOT NULL THEN r.slot + make_interval(secs => n.number / r.rate) END,
        probe_at = CASE WHEN r.is_probing THEN statement_timestamp() + make_interval(secs => r.lease + 1)
                        ELSE t.probe_at END
    FROM rooms r, (SELECT destination_id, count(*) AS number FROM leased GROUP BY destination_id) n
    WHERE t.id = r.id AND n.destination_id = r.id AND (r.rate IS NOT NULL OR r.is_probing)
)
SELECT d.id, d.lease, d.tenant_id, d.session_id, d.destination_id, d.type, d.attempts, d.scheduled,
       e.id AS event_id, e.body_sealed, t.url_sealed, t.headers_sealed, t.secrets_sealed, t.timeout_seconds,
       t.auth_sealed, t.payload, t.format, coalesce(t.previous_until > now(), false) AS is_rotating,
       t.failures, t.hangs, t.probe_at IS NOT NULL AS is_probe, s.traceparent
FROM leased d JOIN events e ON e.id = d.event_id JOIN destinations t ON t.id = d.destination_id
LEFT JOIN sessions s ON s.id = d.session_id;

-- name: release
-- Releases a delivery whose worker stops: another worker sends it at once, under the same id.
UPDATE deliveries SET lease = NULL, next_at = now() WHERE id = $1 AND lease = $2 AND status = 'pending';

-- name: may_leave
-- Returns which leased deliveries may still be sent: none was erased, confirmed or leased to another worker.
SELECT d.id FROM unnest($1::text[], $2::uuid[]) AS g (id, lease) JOIN deliveries d ON d.id = g.id
WHERE d.lease = g.lease AND d.status = 'pending';

-- name: withdraw
-- Withdraws a delivery that had not left when its session was erased; it counts as no attempt.
WITH back AS (
    UPDATE deliveries SET lease = NULL, attempts = attempts - 1 WHERE id = $1 AND lease = $2 AND status = 'dead'
    RETURNING id
)
DELETE FROM attempts a USING back WHERE a.delivery_id = back.id AND a.error_class = 'on_its_way';

-- name: next_slot
-- Seconds until a destination with waiting deliveries may be called again, by its rate; NULL if none has to wait.
SELECT extract(epoch FROM t.next_slot_at - clock_timestamp())::float8 AS seconds
FROM destinations t
WHERE t.next_slot_at > clock_timestamp() - interval '50 milliseconds' AND t.enabled AND t.rate_per_second IS NOT NULL
  AND t.probe_at IS NULL AND (t.retry_after_until IS NULL OR t.retry_after_until <= clock_timestamp())
  AND (SELECT true FROM deliveries d
       WHERE d.destination_id = t.id AND d.status = 'pending' AND d.next_at <= t.next_slot_at LIMIT 1)
ORDER BY t.next_slot_at LIMIT 1;

-- name: lock_to_pause
-- Locks a destination that may be turned off.
SELECT enabled FROM destinations WHERE id = $1 FOR UPDATE;

-- name: record_attempts
-- Records attempts and the new state of their deliveries; each needs its lease.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::integer[], $5::float8[], $6::text[], $7::text[],
                         $8::float8[], $9::integer[], $10::text[], $11::integer[], $12::bigint[], $13::bytea[],
                         $14::text[], $15::float8[])
        AS g (id, lease, status, spent, wait, reason, record_id, ago, status_code, error_class, duration_ms,
              size, sha256, destination_id, retry_after)
), destination AS MATERIALIZED (
    -- This lock comes first, so that turning a destination on or off happens wholly before or after.
    SELECT t.id, t.enabled FROM destinations t WHERE t.id = ANY($14) ORDER BY t.id FOR SHARE
), held AS (  -- a retry is due unless the destination is off or a newer version was delivered
    SELECT g.*, CASE WHEN d.status = 'dead' THEN 'erased'  -- only an erasure makes a delivery dead and keeps its lease
                     WHEN g.status <> 'pending' THEN g.status
                     WHEN EXISTS (SELECT 1 FROM deliveries n
                                  WHERE n.destination_id = d.destination_id AND n.lineage = d.lineage AND n.version > d.version
                                    AND n.status IN ('delivered', 'filed')) THEN 'superseded'
                     WHEN NOT t.enabled THEN 'paused' ELSE g.status END AS turn
    FROM given g JOIN destination t ON t.id = g.destination_id JOIN deliveries d ON d.id = g.id
    WHERE d.lease = g.lease
    ORDER BY d.id
    FOR UPDATE OF d
), delivery AS (
    UPDATE deliveries d
    SET status = CASE WHEN h.turn IN ('superseded', 'erased') THEN 'dead' ELSE h.turn END,
        attempts = attempts + (h.turn <> 'erased')::integer, scheduled = scheduled + h.spent, lease = NULL,
        reason = CASE h.turn WHEN 'superseded' THEN 'superseded' WHEN 'erased' THEN d.reason ELSE h.reason END,
        record_id = CASE WHEN h.turn <> 'erased' THEN coalesce(h.record_id, d.record_id) END,
        next_at = CASE WHEN h.turn = 'pending' THEN now() + make_interval(secs => h.wait) END,
        not_before = CASE WHEN h.status = 'pending' THEN now() + make_interval(secs => h.retry_after) END,
        settled_at = CASE WHEN h.turn = 'erased' THEN d.settled_at
                          WHEN h.turn IN ('delivered', 'filed', 'dead', 'superseded') THEN now() END
    FROM held h WHERE d.id = h.id
    RETURNING d.id, d.type, d.status, d.reason, d.session_id, d.document_id, d.destination_id, d.lineage, d.version
), overtaken AS (  -- older versions that were made due again in the meantime
    UPDATE deliveries o
    SET status = 'dead', next_at = NULL, lease = NULL, reason = 'superseded', settled_at = now()
    FROM delivery d
    WHERE d.status IN ('delivered', 'filed') AND d.version > 1 AND o.destination_id = d.destination_id
      AND o.lineage = d.lineage AND o.version < d.version
      AND o.status IN ('pending', 'paused') AND (o.lease IS NULL OR o.next_at <= now())
), written AS (
    INSERT INTO attempts (delivery_id, at, status_code, error_class, duration_ms, response_bytes, response_sha256)
    SELECT h.id, now() - make_interval(secs => h.ago), h.status_code, h.error_class, h.duration_ms, h.size, h.sha256
    FROM held h JOIN delivery USING (id) WHERE h.turn <> 'erased'
), told AS (  -- the erasure has recorded this delivery already, as one in flight
    UPDATE attempts a
    SET at = now() - make_interval(secs => h.ago), status_code = h.status_code, error_class = h.error_class,
        duration_ms = h.duration_ms
    FROM held h WHERE h.turn = 'erased' AND a.delivery_id = h.id AND a.error_class = 'on_its_way'
)
SELECT d.id AS delivery_id, d.type, d.status, d.reason, h.duration_ms,
       -- The first delivery of a dictation's document to a destination counts, but no changed, requested or
       -- repeated one.
       CASE WHEN d.status IN ('delivered', 'filed') AND t.status = 'success' AND t.version = 1
                 AND (s.settled_at IS NULL OR t.received_at <= s.settled_at)
                 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.error_class IS NULL)
            THEN extract(epoch FROM clock_timestamp() - s.ended_at)::float8 END AS end_to_chart_seconds
FROM delivery d JOIN held h USING (id)
LEFT JOIN sessions s ON s.id = d.session_id LEFT JOIN documents t ON t.id = d.document_id;

-- name: pause_destination
-- Turns a destination off until a person turns it on; its deliveries wait.
UPDATE destinations SET enabled = false, paused_reason = $2 WHERE id = $1 AND enabled;

-- name: pause_deliveries
-- Pauses the deliveries of a destination that is off, except those that are being sent at this moment.
UPDATE deliveries SET status = 'paused', next_at = NULL, reason = $2
WHERE destination_id = $1 AND status = 'pending' AND lease IS NULL;

-- name: page
-- Returns one page of a tenant's deliveries, newest first.
SELECT * FROM deliveries
WHERE tenant_id = $1
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR destination_id = $3)
  AND ($4::text IS NULL OR session_id = $4)
  AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6))
ORDER BY created_at DESC, id DESC
LIMIT $7;

-- name: one
-- Returns one delivery.
SELECT * FROM deliveries WHERE tenant_id = $1 AND id = $2;

-- name: attempts
-- Lists the attempts of one delivery, in order.
SELECT at, status_code, error_class, duration_ms FROM attempts WHERE delivery_id = $1 ORDER BY id;

-- name: retry
-- Makes a dead delivery due again, with the same id and a new schedule.
UPDATE deliveries SET status = 'pending', next_at = now(), not_before = NULL, lease = NULL, scheduled = 0,
                      reason = NULL, settled_at = NULL
WHERE tenant_id = $1 AND id = $2 AND status = 'dead'
  AND EXISTS (SELECT 1 FROM destinations t WHERE t.id = destination_id AND t.enabled)
  AND EXISTS (SELECT 1 FROM events e WHERE e.id = event_id AND e.body_sealed IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM deliveries n
                  WHERE n.destination_id = deliveries.destination_id AND n.lineage = deliveries.lineage AND n.version > deliveries.version
                    AND n.status IN ('delivered', 'filed'))
RETURNING id, destination_id;

-- name: resume
-- Makes paused deliveries due, or after the destination's Retry-After; their schedules go on.
UPDATE deliveries SET status = 'pending', next_at = greatest(now(), not_before), reason = NULL
WHERE destination_id = $1 AND status = 'paused';

-- name: hold_destination
-- Locks a destination that is on, so that it stays on while deliveries to it are made.
SELECT enabled FROM destinations WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL FOR SHARE;

-- name: has_too_many_pings
-- Checks whether that many tests of a destination wait already: a slow destination would collect any number.
SELECT count(*) >= $2 AS has_too_many
FROM (SELECT 1 FROM deliveries WHERE destination_id = $1 AND status = 'pending' AND type = 'ping' LIMIT $2) waiting;

-- name: add_ping
-- Inserts a test of a destination and its delivery, without session or document.
WITH event AS (
    INSERT INTO events (tenant_id, type, body_sealed) VALUES ($1, 'ping', $4) RETURNING id
)
INSERT INTO deliveries (id, tenant_id, event_id, destination_id, type, next_at)
SELECT $2, $1, event.id, $3, 'ping', now() FROM event;

-- name: recover_dead
-- Makes dead deliveries since a time due again, oldest first; versions older than a delivered one stay dead.
WITH dead AS MATERIALIZED (
    SELECT d.id, d.created_at, d.lineage, d.version
    FROM deliveries d JOIN events e ON e.id = d.event_id
    WHERE d.destination_id = $1 AND d.status = 'dead' AND d.settled_at >= $2 AND d.type <> 'ping'
      AND e.body_sealed IS NOT NULL
    FOR UPDATE OF d SKIP LOCKED
), judged AS (
    SELECT id, row_number() OVER (ORDER BY created_at, id) AS place,
           EXISTS (SELECT 1 FROM deliveries n
                   WHERE n.destination_id = $1 AND n.lineage = dead.lineage AND n.version > dead.version
                     AND n.status IN ('delivered', 'filed')) AS is_superseded
    FROM dead
), moved AS (
    UPDATE deliveries d
    SET status = CASE WHEN is_superseded THEN 'dead' ELSE 'pending' END,
        next_at = CASE WHEN NOT is_superseded THEN now() + place * interval '1 microsecond' END, not_before = NULL,
        settled_at = CASE WHEN is_superseded THEN d.settled_at END,
        reason = CASE WHEN is_superseded THEN 'superseded' END, scheduled = 0, lease = NULL
    FROM judged WHERE d.id = judged.id
    RETURNING d.status
)
SELECT count(*) AS recovered FROM moved WHERE status = 'pending';

-- name: never_attempted
-- Lists events since a time that a destination never got, in order; locks their sessions against erasure.
SELECT e.id
FROM events e
JOIN sessions s ON s.id = e.session_id
JOIN destinations t ON t.id = $2
LEFT JOIN documents doc ON doc.id = e.document_id
WHERE e.tenant_id = $1 AND e.created_at >= $3 AND e.body_sealed IS NOT NULL AND s.erased_at IS NULL
  AND (cardinality(t.events) = 0 OR e.type = ANY(t.events))
  AND (cardinality(t.templates) = 0 OR nullif(e.template_id, '') IS NULL OR e.template_id = ANY(t.templates))
  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id AND d.destination_id = $2)
  AND NOT EXISTS (SELECT 1 FROM deliveries n
                  WHERE n.destination_id = $2 AND n.lineage = coalesce(doc.lineage, doc.id) AND n.version > doc.version
                    AND n.status IN ('delivered', 'filed'))
ORDER BY e.id
FOR KEY SHARE OF s;

-- name: replay
-- Inserts deliveries of such events, due in order; deliveries that exist already stay as they are.
INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, lineage, version, destination_id,
                        type, next_at)
SELECT n.id, e.tenant_id, e.id, e.session_id, e.document_id, coalesce(doc.lineage, doc.id), doc.version, $1, e.type,
       now() + n.place * interval '1 microsecond'
FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS n (id, event_id, place)
JOIN events e ON e.id = n.event_id
LEFT JOIN documents doc ON doc.id = e.document_id
ON CONFLICT (event_id, destination_id) DO NOTHING
RETURNING id;

-- name: hold_destination_of
-- Locks the destination of a delivery before the delivery itself, the lock order of every change.
SELECT t.id FROM destinations t JOIN deliveries d ON d.destination_id = t.id
WHERE d.tenant_id = $1 AND d.id = $2
FOR SHARE OF t;

-- name: lock_delivery
-- Locks a delivery before its confirmation.
SELECT status, record_id FROM deliveries WHERE tenant_id = $1 AND id = $2 FOR UPDATE;

-- name: confirm
-- Records that the EMR filed a delivery; a worker in the middle of an attempt loses its lease. No row if erased.
UPDATE deliveries d
SET status = 'filed', record_id = $2, confirmed_at = now(), next_at = NULL, lease = NULL, reason = NULL,
    settled_at = CASE WHEN status = 'delivered' THEN settled_at ELSE now() END
WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = d.session_id AND s.erased_at IS NOT NULL)
RETURNING id;

-- name: supersede
-- Ends waiting deliveries of older versions to the same destination; a worker that sends one loses its lease.
UPDATE deliveries o
SET status = 'dead', next_at = NULL, lease = NULL, reason = 'superseded', settled_at = now()
FROM deliveries d
WHERE d.id = $1 AND o.destination_id = d.destination_id AND o.lineage = d.lineage AND o.version < d.version AND o.status IN ('pending', 'paused');

-- name: obstacle
-- Returns why a delivery is not sent again: a newer version was delivered, or its session was erased.
SELECT EXISTS (SELECT 1 FROM deliveries n
               WHERE n.destination_id = d.destination_id AND n.lineage = d.lineage AND n.version > d.version
                 AND n.status IN ('delivered', 'filed')) AS is_superseded,
       EXISTS (SELECT 1 FROM sessions s WHERE s.id = d.session_id AND s.erased_at IS NOT NULL) AS is_erased
FROM deliveries d WHERE d.id = $1;
