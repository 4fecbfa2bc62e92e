-- Audio that is kept is found by its age, and its bytes can be in an object store.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

CREATE INDEX audio_blocks_by_age ON audio_blocks (kept_at);

-- The bytes are in the object of this name; `data_sealed` is then the key of the object, encrypted.
ALTER TABLE audio_blocks ADD COLUMN object_name text;
CREATE UNIQUE INDEX audio_blocks_by_object ON audio_blocks (object_name) WHERE object_name IS NOT NULL;

-- Objects whose row was deleted, in whatever way: they are deleted next.
CREATE TABLE audio_object_deletions (
    name       text PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audio_object_deletions_oldest ON audio_object_deletions (deleted_at);

CREATE FUNCTION delete_audio_object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audio_object_deletions (name) VALUES (OLD.object_name) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER audio_block_leaves_object AFTER DELETE ON audio_blocks
    FOR EACH ROW WHEN (OLD.object_name IS NOT NULL) EXECUTE FUNCTION delete_audio_object();
