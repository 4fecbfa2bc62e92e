-- name: count_failure
-- Counts one more consecutive failure; the breaker opens after enough of them over enough time.
WITH held AS (
    SELECT id, tenant_id, probe_at, failures + 1 AS failures, coalesce(failing_since, now()) AS since,
           -- A shorter Retry-After, or none, does not shorten an earlier one.
           greatest(retry_after_until, CASE WHEN $6::float8 > 0 THEN now() + make_interval(secs => $6) END) AS until
    FROM destinations WHERE id = $1 AND removed_at IS NULL FOR UPDATE
)
UPDATE destinations t
SET failures = held.failures, failing_since = held.since, retry_after_until = held.until,
    hangs = t.hangs + CASE WHEN $7 THEN 1 ELSE 0 END,
    probe_at = CASE WHEN held.probe_at IS NOT NULL
                         OR (held.failures >= $2 AND held.since <= now() - make_interval(secs => $3))
                    THEN greatest(held.until, now() + make_interval(secs =>
                        least($5::float8, greatest($4::float8, extract(epoch FROM now() - held.since) / 2))))
               END
FROM held WHERE t.id = held.id
RETURNING t.tenant_id, t.failures, t.probe_at IS NOT NULL AS is_open, held.probe_at IS NULL AS was_closed,
          extract(epoch FROM now() - held.since)::float8 AS failing_seconds;

-- name: give_up
-- Ends deliveries that are older than the whole schedule, at a destination that has failed as long.
UPDATE deliveries
SET status = 'dead', next_at = NULL, lease = NULL, reason = 'schedule_used_up: ' || $3, settled_at = now()
WHERE destination_id = $1 AND status = 'pending' AND lease IS NULL
  AND created_at <= now() - make_interval(secs => $2)
RETURNING id;

-- name: close
-- Resets the failures of a destination that answers, and returns whether its breaker was open.
WITH held AS (
    SELECT id, probe_at FROM destinations WHERE id = $1 AND failures > 0 FOR UPDATE
)
UPDATE destinations t SET failures = 0, failing_since = NULL, probe_at = NULL, hangs = 0
FROM held WHERE t.id = held.id
RETURNING t.tenant_id, held.probe_at IS NOT NULL AS was_open;

-- name: release
-- Makes the deliveries of a destination due; one with a Retry-After is due when that has passed.
UPDATE deliveries d SET next_at = greatest(now() + placed.place * interval '1 microsecond', d.not_before)
FROM (SELECT id, row_number() OVER (ORDER BY next_at) AS place
      FROM deliveries WHERE destination_id = $1 AND status = 'pending' AND lease IS NULL) placed
WHERE d.id = placed.id AND d.status = 'pending' AND d.lease IS NULL;

-- name: probe_now
-- Ends the Retry-After of a repaired destination; an open breaker lets one call through, and failing time restarts.
UPDATE destinations SET retry_after_until = NULL,
                        probe_at = CASE WHEN probe_at IS NOT NULL THEN now() END,
                        failures = CASE WHEN probe_at IS NULL THEN 0 ELSE failures END,
                        hangs = CASE WHEN probe_at IS NULL THEN 0 ELSE hangs END,
                        failing_since = CASE WHEN probe_at IS NOT NULL THEN now() END
WHERE tenant_id = $1 AND id = $2 AND (failures > 0 OR retry_after_until IS NOT NULL);
