-- A session may come as one whole recording. Its bytes are audio blocks of the sequence -1; a worker cuts them.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

CREATE TABLE recordings (
    session_id  text PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    bytes       bigint NOT NULL,
    seconds     float8 NOT NULL,
    sha256      bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    cut_at      timestamptz,                    -- when the last of its chunks was kept; NULL: not cut yet
    chunks      integer                         -- how many they are; NULL: not cut yet
);
