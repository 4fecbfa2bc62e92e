-- name: insert
-- Inserts an API key of an existing tenant; no row if there is no such tenant.
INSERT INTO api_keys (id, tenant_id, role, key_hash)
SELECT $1, id, $3, $4 FROM tenants WHERE id = $2
RETURNING id, tenant_id, role, created_at, revoked_at;

-- name: list
-- Lists the keys of a tenant, oldest first, revoked ones included.
SELECT id, tenant_id, role, created_at, revoked_at FROM api_keys WHERE tenant_id = $1 ORDER BY created_at, id;

-- name: revoke
-- Revokes a key; the time of the first revocation stays.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
WHERE tenant_id = $1 AND id = $2
RETURNING id, tenant_id, role, created_at, revoked_at;

-- name: principals_by_hash
-- Reads the principals of API keys, for each request, so that a revocation counts at once on every pod.
SELECT k.key_hash, k.id AS key_id, k.tenant_id, k.role, t.defaults, t.keep_audio, t.account_sealed IS NOT NULL AS own_account
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.key_hash = ANY($1) AND k.revoked_at IS NULL;

-- name: active
-- Returns those of the keys that are not revoked; asked while responses to them are under way.
SELECT id FROM api_keys WHERE id = ANY($1) AND revoked_at IS NULL;

-- name: principal_by_id
-- Reads the principal of a signed token; no row if the key was revoked or the token expired.
SELECT k.id AS key_id, k.tenant_id, k.role, t.defaults, t.keep_audio, t.account_sealed IS NOT NULL AS own_account
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
WHERE k.id = $1 AND k.revoked_at IS NULL AND to_timestamp($2::bigint) > now();
