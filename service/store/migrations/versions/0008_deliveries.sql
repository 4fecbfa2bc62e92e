-- A destination's Retry-After is kept where no later failure and no success of another delivery shortens it, and a
-- destination whose calls hang is known as one.

-- Whoever waits for a lock makes everybody else wait behind it: rather fail, and be run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE destinations
    ADD COLUMN retry_after_until timestamptz,  -- the destination asked not to be called before then
    ADD COLUMN hangs integer NOT NULL DEFAULT 0;  -- calls since the last success that held a place for long in vain

ALTER TABLE deliveries
    ADD COLUMN not_before timestamptz;         -- the answer to the last attempt asked for a repeat no earlier
