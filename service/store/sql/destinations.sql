-- name: insert
-- A new destination of an existing tenant; no row when there is no such tenant.
INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed)
SELECT $1, id, $3, $4, $5, $6 FROM tenants WHERE id = $2
RETURNING *;

-- name: list
-- A tenant's destinations, newest first.
SELECT * FROM destinations
WHERE tenant_id = $1 AND removed_at IS NULL
  AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
ORDER BY created_at DESC, id DESC
LIMIT $4;

-- name: one
-- One destination.
SELECT * FROM destinations WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL;

-- name: change
-- Changes what is given; turning it on forgets why it was off.
UPDATE destinations
SET enabled = coalesce($3, enabled), events = coalesce($4, events), templates = coalesce($5, templates),
    paused_reason = CASE WHEN $3 THEN NULL WHEN $3 = false THEN 'disabled' ELSE paused_reason END
WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL
RETURNING *;

-- name: remove
-- Takes a destination out of use; its past deliveries stay.
UPDATE destinations SET removed_at = now(), enabled = false WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL
RETURNING id;

-- name: give_up_deliveries
-- Nothing will be sent any more to a destination that was removed.
UPDATE deliveries SET status = 'dead', next_at = NULL, lease = NULL, reason = 'destination_removed', settled_at = now()
WHERE destination_id = $1 AND status IN ('pending', 'paused');
