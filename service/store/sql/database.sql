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
