-- name: due
-- Lists objects whose rows were deleted, oldest first.
SELECT name FROM audio_object_deletions ORDER BY deleted_at LIMIT $1;

-- name: deleted
-- Forgets objects that are deleted in the object store, too.
DELETE FROM audio_object_deletions WHERE name = ANY($1);

-- name: orphans
-- Returns those of the names that no block has.
SELECT name FROM unnest($1::text[]) AS listed (name)
WHERE NOT EXISTS (SELECT FROM audio_blocks b WHERE b.object_name = listed.name);
