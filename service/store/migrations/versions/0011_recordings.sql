-- A session may come as one whole recording. Its bytes are audio blocks of the sequence -1; a worker cuts them.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE sessions
    DROP CONSTRAINT sessions_upload_check,
    ADD CONSTRAINT sessions_upload_check CHECK (upload IN ('chunked', 'stream', 'recording')) NOT VALID;

CREATE TABLE recordings (
    session_id  text PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    bytes       bigint NOT NULL,
    seconds     float8,                         -- NULL: not inspected yet
    sha256      bytea,                          -- NULL: it came in pieces
    received_at timestamptz NOT NULL DEFAULT now(),
    cut_at      timestamptz,                    -- when the last of its chunks was kept; NULL: not cut yet
    chunks      integer                         -- how many they are; NULL: not cut yet
);

-- Recordings that come in pieces, until the last byte is here. Their bytes are blocks like those of a recording.
CREATE TABLE recording_uploads (
    session_id  text PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    received    bigint NOT NULL DEFAULT 0,
    blocks      integer NOT NULL DEFAULT 0,
    length      bigint,                         -- of the whole recording; NULL: the client has not said it yet
    lease       uuid,                           -- of the request that sends a piece
    lease_until timestamptz
);
