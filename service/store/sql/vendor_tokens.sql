-- name: get
-- Reads the tokens of an account, encrypted, and whether a process is getting new ones.
SELECT tokens_sealed, generation, lease_until > now() AS is_leased FROM vendor_tokens WHERE account = $1;

-- name: lease
-- Leases the right to replace the tokens of a generation, if no other process has it or has done it.
INSERT INTO vendor_tokens (account, lease, lease_until)
VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (account) DO UPDATE SET lease = excluded.lease, lease_until = excluded.lease_until
WHERE vendor_tokens.generation = $4
  AND (vendor_tokens.lease_until IS NULL OR vendor_tokens.lease_until <= now())
RETURNING generation;

-- name: store
-- Stores new tokens for all replicas.
UPDATE vendor_tokens SET tokens_sealed = $3, generation = generation + 1, lease = NULL, lease_until = NULL
WHERE account = $1 AND lease = $2
RETURNING generation;

-- name: release
-- Releases the lease after a failed login: the next one may try.
UPDATE vendor_tokens SET lease = NULL, lease_until = NULL WHERE account = $1 AND lease = $2;
