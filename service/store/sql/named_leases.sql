-- name: acquire
-- Acquires or renews a named lease.
INSERT INTO leases (name, lease, until) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET lease = excluded.lease, until = excluded.until
WHERE leases.lease = excluded.lease OR leases.until <= now()
RETURNING name;

-- name: release
-- Releases a named lease: another process may acquire it at once.
DELETE FROM leases WHERE name = $1 AND lease = $2;
