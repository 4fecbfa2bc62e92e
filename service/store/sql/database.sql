-- name: ping
-- Checks that the database answers and has our schema, and whether it accepts writes.
SELECT current_setting('transaction_read_only') = 'on' AS is_read_only, EXISTS (SELECT FROM leases) AS has_leases;

-- name: clock
-- Reads the database's clock.
SELECT extract(epoch FROM clock_timestamp())::float8 AS now;

-- name: has_revision
-- Checks whether a migration was ever applied.
SELECT to_regclass('alembic_version') IS NOT NULL AS has_revision;

-- name: revision
-- Reads the revision of the schema from the migration tool's table.
SELECT version_num FROM alembic_version;
