-- Audio and create calls that the vendor did not take are held in rows, and handed over when the vendor answers.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE sessions
    ADD COLUMN held_since timestamptz,          -- since when audio or the create call is held; NULL: nothing is
    DROP CONSTRAINT sessions_owed_check,
    ADD CONSTRAINT sessions_owed_check CHECK (owed IN ('create', 'audio', 'end', 'cancel')) NOT VALID;
CREATE INDEX sessions_held ON sessions (held_since) WHERE held_since IS NOT NULL;

ALTER TABLE chunks
    ADD COLUMN held_at timestamptz,             -- when ekabridge began to hold it; NULL: never held
    DROP CONSTRAINT chunks_status_check,
    ADD CONSTRAINT chunks_status_check CHECK (status IN ('sending', 'held', 'stored', 'refused')) NOT VALID;

-- The bytes of chunks, encrypted, in blocks of at most 1 MiB.
CREATE TABLE audio_blocks (
    id          text PRIMARY KEY,               -- session, sequence and block; the AAD of the value
    session_id  text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    sequence    integer NOT NULL,
    block       integer NOT NULL,
    bytes       integer NOT NULL,               -- before the encryption
    data_sealed bytea NOT NULL,
    kept_at     timestamptz NOT NULL DEFAULT now()
);
-- Encrypted bytes cannot be compressed.
ALTER TABLE audio_blocks ALTER COLUMN data_sealed SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX audio_blocks_in_order ON audio_blocks (session_id, sequence, block);
CREATE INDEX audio_blocks_by_tenant ON audio_blocks (tenant_id) INCLUDE (bytes);
