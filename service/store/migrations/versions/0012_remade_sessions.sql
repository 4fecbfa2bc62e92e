-- A session may have another id at the vendor: it was made again there, with audio that was kept here.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE sessions
    ADD COLUMN vendor_session_id text;          -- the session's id at the vendor; NULL: the same as here
-- A webhook names the vendor's id.
CREATE UNIQUE INDEX sessions_by_vendor_id ON sessions (vendor_session_id) WHERE vendor_session_id IS NOT NULL;
