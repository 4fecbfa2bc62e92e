-- name: insert
-- A new tenant.
INSERT INTO tenants (id, name, defaults, account_sealed)
VALUES ($1, $2, $3, $4)
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          created_at;

-- name: list
-- All tenants, oldest first.
SELECT id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
       created_at
FROM tenants ORDER BY created_at, id;

-- name: get
-- One tenant.
SELECT id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
       created_at
FROM tenants WHERE id = $1;
