-- Blocks of audio whose session has had its ending for a week are deleted; the sweep finds them by their age.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

CREATE INDEX audio_blocks_by_age ON audio_blocks (kept_at);
