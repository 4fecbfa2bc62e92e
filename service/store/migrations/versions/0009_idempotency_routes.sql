-- An Idempotency-Key's row knows the call that it came with. The version before this one writes no route and only
-- ever finds keys of create calls, because the hashes of all others contain their route.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE idempotency_keys
    ADD COLUMN route text;                      -- createSession (as NULL), makeDocument, or createDestination,
                                                -- whose session_id is the destination's id
