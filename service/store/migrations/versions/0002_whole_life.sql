-- Live streams, changes before the end, cancelling, erasing, and further documents of a finished session.

ALTER TABLE sessions
    ADD COLUMN erased_at timestamptz,        -- nothing that identifies anybody is left in its rows
    ADD COLUMN change_lease uuid,            -- a change is being told to the vendor
    ADD COLUMN change_until timestamptz,
    DROP CONSTRAINT sessions_owed_check,
    ADD CONSTRAINT sessions_owed_check CHECK (owed IN ('create', 'end', 'cancel'));

-- Who has the stream of a session. Whoever holds the lease has the only connection.
CREATE TABLE streams (
    session_id  text PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    lease       uuid,                        -- NULL: no client is connected
    lease_until timestamptz,
    heard_at    timestamptz NOT NULL DEFAULT now(),  -- when the client last sent something, as of the last beat
    is_yielding boolean NOT NULL DEFAULT false,  -- the holder is to let go, or is about to
    CHECK ((lease IS NULL) = (lease_until IS NULL))
);

-- Each connection of a stream: what came through it and how it ended. One that has no end was cut with its process.
CREATE TABLE stream_connections (
    lease      uuid PRIMARY KEY,
    session_id text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz,
    cause      text,                         -- who or what ended it
    code       integer,                      -- the close code that the client got
    frames     bigint NOT NULL DEFAULT 0,    -- that were handed to the vendor; as of the last beat while open
    bytes      bigint NOT NULL DEFAULT 0
);
CREATE INDEX stream_connections_by_session ON stream_connections (session_id, opened_at);

-- A further document of a finished session: asked for by itself, after the ending.
ALTER TABLE fetches
    ADD COLUMN document_id text,             -- the vendor's id of the document that is awaited
    ADD COLUMN asked text CHECK (asked IN ('asking', 'asked'));  -- NULL: part of the session from its start

-- Erased sessions keep the record that something was sent, without what.
ALTER TABLE events ALTER COLUMN body_sealed DROP NOT NULL;

-- For the answers that are kept of an erased session's create call.
CREATE INDEX idempotency_keys_by_session ON idempotency_keys (session_id);
