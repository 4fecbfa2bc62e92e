-- name: get
-- The tokens of an account, sealed, and who is getting new ones.
SELECT tokens_sealed, generation, lease_until > now() AS is_leased FROM vendor_tokens WHERE account = $1;

-- name: lease
-- The right to log in or refresh for an account: one at a time, and only if nobody did since that generation.
INSERT INTO vendor_tokens (account, lease, lease_until)
VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (account) DO UPDATE SET lease = excluded.lease, lease_until = excluded.lease_until
WHERE vendor_tokens.generation = $4
  AND (vendor_tokens.lease_until IS NULL OR vendor_tokens.lease_until <= now())
RETURNING generation;

-- name: store
-- New tokens for all replicas.
UPDATE vendor_tokens SET tokens_sealed = $3, generation = generation + 1, lease = NULL, lease_until = NULL
WHERE account = $1 AND lease = $2
RETURNING generation;

-- name: release
-- The login failed: the next one may try.
UPDATE vendor_tokens SET lease = NULL, lease_until = NULL WHERE account = $1 AND lease = $2;
