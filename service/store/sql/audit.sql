-- name: insert_reads
-- Inserts one entry for each object that was read.
INSERT INTO audit (tenant_id, actor, action, object_id) SELECT $1, $2, $3, unnest($4::text[]);

-- name: page
-- Returns one page of a tenant's entries, newest first.
SELECT id, at, at AS created_at, actor, action, object_id, facts FROM audit
WHERE tenant_id = $1
  AND ($2::text IS NULL OR action = $2)
  AND ($3::text IS NULL OR object_id = $3)
  AND ($4::timestamptz IS NULL OR at >= $4)
  AND ($5::timestamptz IS NULL OR at < $5)
  AND ($6::timestamptz IS NULL OR (at, id) < ($6, $7::bigint))
ORDER BY at DESC, id DESC
LIMIT $8;

-- name: insert
-- Inserts one entry of a change; its facts hold no content.
INSERT INTO audit (tenant_id, actor, action, object_id, facts) VALUES ($1, $2, $3, $4, $5);
