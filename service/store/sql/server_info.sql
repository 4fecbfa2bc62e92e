-- name: server
-- Reads version, clock and limits of the server.
SELECT current_setting('server_version_num')::integer AS version,
       extract(epoch FROM clock_timestamp())::float8 AS now,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
       AS connections,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS connections_of_role,
       (SELECT setting::integer FROM pg_settings WHERE name = 'statement_timeout') AS statement_timeout_ms,
       pg_is_in_recovery() AS is_standby;

-- name: forbidden
-- Lists tables without a needed privilege; the audit table only grows, and the revision is only read.
SELECT c.relname AS name
FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
  AND NOT (has_table_privilege(c.oid, 'SELECT')
           AND (c.relname = 'alembic_version' OR has_table_privilege(c.oid, 'INSERT'))
           AND (c.relname IN ('alembic_version', 'audit')
                OR has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))
ORDER BY c.relname;
