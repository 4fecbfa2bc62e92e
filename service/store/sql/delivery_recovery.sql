-- name: hold_destination
-- A destination that stays on or off while deliveries to it are made.
SELECT enabled FROM destinations WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL FOR SHARE;

-- name: add_ping
-- A test of a destination and its delivery; no session, no document.
WITH event AS (
    INSERT INTO events (tenant_id, type, body_sealed) VALUES ($1, 'ping', $4) RETURNING id
)
INSERT INTO deliveries (id, tenant_id, event_id, destination_id, type, next_at)
SELECT $2, $1, event.id, $3, 'ping', now() FROM event;

-- name: recover_dead
-- What died at a destination since then is due again, oldest first; what a newer version overtook stays dead.
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
-- Events since then that a destination wants and never got, in order; their sessions cannot be erased meanwhile.
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
-- Deliveries of such events, due in their order; what somebody else made meanwhile is left alone.
INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, lineage, version, destination_id,
                        type, next_at)
SELECT n.id, e.tenant_id, e.id, e.session_id, e.document_id, coalesce(doc.lineage, doc.id), doc.version, $1, e.type,
       now() + n.place * interval '1 microsecond'
FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS n (id, event_id, place)
JOIN events e ON e.id = n.event_id
LEFT JOIN documents doc ON doc.id = e.document_id
ON CONFLICT (event_id, destination_id) DO NOTHING
RETURNING id;

-- name: hold_delivery_s_destination
-- The destination of a delivery, before the delivery itself, as everybody does who changes deliveries.
SELECT t.id FROM destinations t JOIN deliveries d ON d.destination_id = t.id
WHERE d.tenant_id = $1 AND d.id = $2
FOR SHARE OF t;

-- name: lock_delivery
-- A delivery that is about to be confirmed.
SELECT status, record_id FROM deliveries WHERE tenant_id = $1 AND id = $2 FOR UPDATE;

-- name: confirm
-- The EMR has filed it; whoever attempts it at this moment has lost the lease. No row when it was erased.
UPDATE deliveries d
SET status = 'filed', record_id = $2, confirmed_at = now(), next_at = NULL, lease = NULL, reason = NULL,
    settled_at = CASE WHEN status = 'delivered' THEN settled_at ELSE now() END
WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = d.session_id AND s.erased_at IS NOT NULL)
RETURNING id;

-- name: supersede
-- Older versions that still wait for the same destination are not sent any more; whoever sends one loses the lease.
UPDATE deliveries o
SET status = 'dead', next_at = NULL, lease = NULL, reason = 'superseded', settled_at = now()
FROM deliveries d
WHERE d.id = $1 AND o.destination_id = d.destination_id AND o.lineage = d.lineage AND o.version < d.version AND o.status IN ('pending', 'paused');

-- name: obstacle
-- Why a delivery is not sent again: a newer version of its document was delivered, or its session was erased.
SELECT EXISTS (SELECT 1 FROM deliveries n
               WHERE n.destination_id = d.destination_id AND n.lineage = d.lineage AND n.version > d.version
                 AND n.status IN ('delivered', 'filed')) AS is_superseded,
       EXISTS (SELECT 1 FROM sessions s WHERE s.id = d.session_id AND s.erased_at IS NOT NULL) AS is_erased
FROM deliveries d WHERE d.id = $1;
