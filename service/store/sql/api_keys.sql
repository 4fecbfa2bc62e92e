-- name: insert
-- A new API key of an existing tenant; no row when there is no such tenant.
INSERT INTO api_keys (id, tenant_id, role, key_hash)
SELECT $1, id, $3, $4 FROM tenants WHERE id = $2
RETURNING id, tenant_id, role, created_at, revoked_at;

-- name: list
-- The keys of a tenant, oldest first, revoked ones included.
SELECT id, tenant_id, role, created_at, revoked_at FROM api_keys WHERE tenant_id = $1 ORDER BY created_at, id;

-- name: revoke
-- Revokes a key; the time of the first revocation stays.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
WHERE tenant_id = $1 AND id = $2
RETURNING id, tenant_id, role, created_at, revoked_at;

-- name: principals_by_hash
-- The principals of API keys; read for each request, so that a revocation counts at once on every pod.
SELECT k.key_hash, k.id AS key_id, k.tenant_id, k.role, t.defaults, t.account_sealed IS NOT NULL AS own_account
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.key_hash = ANY($1) AND k.revoked_at IS NULL;

-- name: active
-- Those of the keys that were not revoked: asked while calls with them are being answered.
SELECT id FROM api_keys WHERE id = ANY($1) AND revoked_at IS NULL;

-- name: principal_by_id
-- The principal of the key behind a signed token; no row when the key was revoked or the token expired.
SELECT k.id AS key_id, k.tenant_id, k.role, t.defaults, t.account_sealed IS NOT NULL AS own_account
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.id = $1 AND k.revoked_at IS NULL AND to_timestamp($2::bigint) > now();
