-- name: lock_tenant
-- Locks a tenant, so that only one destination at a time is added to it.
SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE;

-- name: count
-- Counts the destinations of a tenant, up to the limit.
SELECT count(*) AS number FROM (
    SELECT 1 FROM destinations WHERE tenant_id = $1 AND removed_at IS NULL LIMIT $2
) found;

-- name: insert
-- Inserts a destination of an existing tenant; no row if there is no such tenant. $1 to $13 are in the order of the arguments in store/destinations.py.
INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed, payload, format,
                          headers_sealed, auth_sealed, timeout_seconds, rate_per_second, enabled, paused_reason)
SELECT $1, id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, CASE WHEN NOT $13 THEN 'disabled' END
FROM tenants WHERE id = $2
RETURNING *, false AS is_told_to_wait;

-- name: list
-- Returns one page of a tenant's destinations, newest first.
SELECT *, coalesce(retry_after_until > now(), false) AS is_told_to_wait FROM destinations
WHERE tenant_id = $1 AND removed_at IS NULL
  AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
ORDER BY created_at DESC, id DESC
LIMIT $4;

-- name: one
-- Returns one destination.
SELECT *, coalesce(retry_after_until > now(), false) AS is_told_to_wait,
       coalesce(previous_until > now(), false) AS is_rotating
FROM destinations WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL;

-- name: change
-- Changes the given fields; turning a destination on clears the reason why it was off.
UPDATE destinations
SET enabled = coalesce($3, enabled), events = coalesce($4, events), templates = coalesce($5, templates),
    url_sealed = coalesce($6, url_sealed), payload = coalesce($7, payload), format = coalesce($8, format),
    headers_sealed = CASE WHEN $9 THEN $10 ELSE headers_sealed END,
    auth_sealed = CASE WHEN $11 THEN $12 ELSE auth_sealed END,
    timeout_seconds = CASE WHEN $13 THEN $14 ELSE timeout_seconds END,
    rate_per_second = CASE WHEN $15 THEN $16 ELSE rate_per_second END,
    paused_reason = CASE WHEN $3 THEN NULL WHEN $3 = false THEN 'disabled' ELSE paused_reason END,
    next_slot_at = CASE WHEN $15 THEN NULL ELSE next_slot_at END,
    retry_after_until = CASE WHEN $3 THEN NULL ELSE retry_after_until END,
    probe_at = CASE WHEN $3 AND probe_at IS NOT NULL THEN now() ELSE probe_at END,
    failures = CASE WHEN $3 AND probe_at IS NULL THEN 0 ELSE failures END,
    hangs = CASE WHEN $3 AND probe_at IS NULL THEN 0 ELSE hangs END,
    failing_since = CASE WHEN $3 IS NOT TRUE THEN failing_since WHEN probe_at IS NOT NULL THEN now() END
WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL
RETURNING *, coalesce(retry_after_until > now(), false) AS is_told_to_wait;

-- name: hold
-- Locks one destination while its secret is replaced.
SELECT * FROM destinations WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL FOR UPDATE;

-- name: rotate
-- Stores a new secret, and until when the previous secret signs too.
UPDATE destinations
SET secrets_sealed = $2, previous_until = CASE WHEN $3 > 0 THEN now() + make_interval(secs => $3) END
WHERE id = $1
RETURNING *, coalesce(retry_after_until > now(), false) AS is_told_to_wait;

-- name: remove
-- Removes a destination; its past deliveries stay.
UPDATE destinations SET removed_at = now(), enabled = false WHERE tenant_id = $1 AND id = $2 AND removed_at IS NULL
RETURNING id;

-- name: give_up_deliveries
-- Ends the waiting deliveries of a removed destination.
UPDATE deliveries SET status = 'dead', next_at = NULL, lease = NULL, reason = 'destination_removed', settled_at = now()
WHERE destination_id = $1 AND status IN ('pending', 'paused');
