-- name: own
-- The vendor accounts of these tenants, sealed; none of one that shares the default one, or is unknown.
SELECT id, account_sealed FROM tenants WHERE id = ANY($1) AND account_sealed IS NOT NULL;

-- name: lock
-- The same, held until the transaction ends; a session that is being inserted is waited for.
SELECT account_sealed FROM tenants WHERE id = $1 FOR UPDATE;

-- name: is_used
-- Whether a session is not done yet with the tenant's own account.
SELECT EXISTS (SELECT 1 FROM sessions WHERE tenant_id = $1 AND account = $1 AND erased_at IS NULL
               AND status IN ('created', 'recording', 'processing'))
       OR EXISTS (SELECT 1 FROM sessions WHERE tenant_id = $1 AND account = $1 AND owed IS NOT NULL)
       OR EXISTS (SELECT 1 FROM fetches f JOIN sessions s ON s.id = f.session_id
                  WHERE f.status = 'pending' AND f.tenant_id = $1 AND s.account = $1) AS is_used;

-- name: set
-- Another account for a tenant; NULL: it shares the default one.
UPDATE tenants SET account_sealed = $2 WHERE id = $1
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          created_at;

-- name: forget_tokens
-- Tokens of credentials that are not used any more; their generation stays, so that it only ever grows.
UPDATE vendor_tokens SET tokens_sealed = NULL WHERE account = $1;
