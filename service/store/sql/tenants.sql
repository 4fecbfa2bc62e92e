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

-- name: lock_retention
-- For how many days a tenant's content and rows are kept, held until the transaction ends.
SELECT keep_content_days, keep_metadata_days FROM tenants WHERE id = $1 FOR UPDATE;

-- name: set_retention
-- Keeps a tenant's content and rows for so many days from now on; NULL: for ever.
UPDATE tenants SET keep_content_days = $2, keep_metadata_days = $3 WHERE id = $1
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          created_at;
