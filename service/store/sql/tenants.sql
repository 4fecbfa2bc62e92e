-- name: insert
-- Inserts a tenant.
INSERT INTO tenants (id, name, defaults, account_sealed)
VALUES ($1, $2, $3, $4)
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          keep_audio, created_at;

-- name: list
-- Lists all tenants, oldest first.
SELECT id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
       keep_audio, created_at
FROM tenants ORDER BY created_at, id;

-- name: get
-- Returns one tenant.
SELECT id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
       keep_audio, created_at
FROM tenants WHERE id = $1;

-- name: lock_retention
-- Reads the retention of a tenant in days, and locks its row.
SELECT keep_content_days, keep_metadata_days FROM tenants WHERE id = $1 FOR UPDATE;

-- name: set_retention
-- Sets the retention of a tenant in days; NULL keeps for ever.
UPDATE tenants SET keep_content_days = $2, keep_metadata_days = $3 WHERE id = $1
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          keep_audio, created_at;

-- name: set_keep_audio
-- Sets for how long a tenant's confirmed audio is kept; NULL follows the setting.
UPDATE tenants SET keep_audio = $2 WHERE id = $1
RETURNING id, name, defaults, account_sealed IS NOT NULL AS own_account, keep_content_days, keep_metadata_days,
          keep_audio, created_at;
