-- A destination's Retry-After is kept where no later failure and no success of another delivery shortens it.

-- Whoever waits for a lock makes everybody else wait behind it: rather fail, and be run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE destinations
    ADD COLUMN retry_after_until timestamptz;  -- the destination asked not to be called before then

ALTER TABLE deliveries
    ADD COLUMN not_before timestamptz;         -- the answer to the last attempt asked for a repeat no earlier
