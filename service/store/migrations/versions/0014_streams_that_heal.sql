-- Audio of a stream is held while the vendor's side of it is away.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE streams
    ADD COLUMN held_taken_bytes bigint NOT NULL DEFAULT 0,     -- of the held samples, which the vendor's stream took
    ADD COLUMN held_is_whole boolean NOT NULL DEFAULT true;    -- the held audio begins with the session's first

CREATE TABLE stream_interruptions (
    lease          uuid NOT NULL REFERENCES stream_connections (lease) ON DELETE CASCADE,
    number         integer NOT NULL,             -- within the connection, from 1
    session_id     text NOT NULL,
    began_at       timestamptz NOT NULL,
    resumed_at     timestamptz,                  -- NULL: the vendor's side did not come back during the connection
    cause          text NOT NULL,
    held_frames    bigint NOT NULL,              -- that came meanwhile
    replayed_bytes bigint NOT NULL,
    PRIMARY KEY (lease, number)
);
CREATE INDEX stream_interruptions_by_session ON stream_interruptions (session_id);
