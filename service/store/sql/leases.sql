-- name: acquire
-- The right to do a named piece of work, for a while; renewed by whoever has it.
INSERT INTO leases (name, lease, until) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET lease = excluded.lease, until = excluded.until
WHERE leases.lease = excluded.lease OR leases.until <= now()
RETURNING name;

-- name: release
-- Whoever has the right stops: another process may have it at once.
DELETE FROM leases WHERE name = $1 AND lease = $2;
