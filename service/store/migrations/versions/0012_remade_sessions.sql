-- A session may have another id at the vendor: it was made again there, with audio that was kept here.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE sessions
    ADD COLUMN vendor_session_id text,          -- the session's id at the vendor; NULL: the same as here
    ADD COLUMN remade_at timestamptz,           -- when it was made again at the vendor, which happens once
    ADD COLUMN remade_reason text,
    ADD COLUMN keep_audio_days integer;         -- confirmed audio is kept so long after the ending, 0: until a good
                                                -- ending; NULL: not at all
-- A webhook names the vendor's id.
CREATE UNIQUE INDEX sessions_by_vendor_id ON sessions (vendor_session_id) WHERE vendor_session_id IS NOT NULL;

ALTER TABLE tenants
    ADD COLUMN keep_audio text;                 -- on_trouble, until_result or days; NULL: as the setting KEEP_AUDIO
