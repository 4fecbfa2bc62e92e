-- name: begin_idempotent
-- Reserves an Idempotency-Key for a call that starts now; no row when it is taken.
INSERT INTO idempotency_keys (tenant_id, key_hash, request_hash, session_id, lease, lease_until)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
ON CONFLICT (tenant_id, key_hash) DO NOTHING
RETURNING session_id;

-- name: lock_idempotent
-- What is known of a key that was used before, held until the transaction ends.
SELECT i.request_hash, i.session_id, i.answer_sealed, i.lease_until <= now() AS lease_is_over,
       s.owed AS session_owed, s.status AS session_status, s.erased_at IS NOT NULL AS is_erased
FROM idempotency_keys i LEFT JOIN sessions s ON s.id = i.session_id
WHERE i.tenant_id = $1 AND i.key_hash = $2
FOR UPDATE OF i;

-- name: resume_idempotent
-- A call whose first try did not end well starts again, for this session.
UPDATE idempotency_keys SET session_id = $3, lease = $4, lease_until = now() + make_interval(secs => $5)
WHERE tenant_id = $1 AND key_hash = $2;

-- name: finish_idempotent
-- The answer that every repeat will get; a session that was erased meanwhile took the lease away.
UPDATE idempotency_keys SET answer_sealed = $3, lease = NULL, lease_until = NULL
WHERE tenant_id = $1 AND key_hash = $2 AND lease IS NOT NULL;

-- name: abandon_idempotent
-- The call failed: the same key may try again at once.
UPDATE idempotency_keys SET lease = NULL, lease_until = now()
WHERE tenant_id = $1 AND key_hash = $2 AND lease = $3;

-- name: forget_idempotent
-- Keys older than the time for which a repeat is recognised.
DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1);

-- name: vendor_tokens
-- The tokens of an account, sealed, and who is getting new ones.
SELECT tokens_sealed, generation, lease_until > now() AS is_leased FROM vendor_tokens WHERE account = $1;

-- name: lease_vendor_tokens
-- The right to log in or refresh for an account: one at a time, and only if nobody did since that generation.
INSERT INTO vendor_tokens (account, lease, lease_until)
VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (account) DO UPDATE SET lease = excluded.lease, lease_until = excluded.lease_until
WHERE vendor_tokens.generation = $4
  AND (vendor_tokens.lease_until IS NULL OR vendor_tokens.lease_until <= now())
RETURNING generation;

-- name: store_vendor_tokens
-- New tokens for all replicas.
UPDATE vendor_tokens SET tokens_sealed = $3, generation = generation + 1, lease = NULL, lease_until = NULL
WHERE account = $1 AND lease = $2
RETURNING generation;

-- name: release_vendor_tokens
-- The login failed: the next one may try.
UPDATE vendor_tokens SET lease = NULL, lease_until = NULL WHERE account = $1 AND lease = $2;

-- name: take_lease
-- The right to do a named piece of work, for a while; renewed by whoever has it.
INSERT INTO leases (name, lease, until) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET lease = excluded.lease, until = excluded.until
WHERE leases.lease = excluded.lease OR leases.until <= now()
RETURNING name;

-- name: release_lease
-- Whoever has the right stops: another process may have it at once.
DELETE FROM leases WHERE name = $1 AND lease = $2;

-- name: ping
-- Whether the database answers and has our schema, and whether it takes writes.
SELECT current_setting('transaction_read_only') = 'on' AS is_read_only, EXISTS (SELECT FROM leases) AS has_leases;

-- name: clock
-- What the database's clock shows.
SELECT extract(epoch FROM clock_timestamp())::float8 AS now;

-- name: has_revision
-- Whether the migration tool was ever here.
SELECT to_regclass('alembic_version') IS NOT NULL AS has_revision;

-- name: revision
-- The revision of the schema, as the migration tool left it.
SELECT version_num FROM alembic_version;
