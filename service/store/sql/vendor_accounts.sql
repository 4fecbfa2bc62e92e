-- name: own
-- Reads the vendor accounts of these tenants, encrypted; no row for a tenant that shares the default.
SELECT id, account_sealed FROM tenants WHERE id = ANY($1) AND account_sealed IS NOT NULL;

-- name: lock
-- Reads and locks the same; waits for a session that is being inserted.
SELECT account_sealed FROM tenants WHERE id = $1 FOR UPDATE;

-- name: is_used
-- Checks whether a session with the tenant's own account is not finished.
SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant_id = $1 AND account = $1 AND erased_at IS NULL
               AND status IN ('created', 'recording', 'processing'))
       OR EXISTS (SELECT 1 FROM sessions WHERE tenant_id = $1 AND account = $1 AND owed IS NOT NULL)
       OR EXISTS (SELECT 1 FROM fetches f JOIN sessions s ON s.id = f.session_id
                  WHERE f.status = 'pending' AND f.tenant_id = $1 AND s.account = $1) AS is_used;

-- name: set
-- Sets the account of a tenant; NULL shares the default account.
UPDATE tenants SET account_sealed = $2 WHERE id = $1
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          keep_audio, created_at;

-- name: forget_tokens
-- Forgets tokens of replaced credentials; the generation stays, so that it only grows.
UPDATE vendor_tokens SET tokens_sealed = NULL WHERE account = $1;
