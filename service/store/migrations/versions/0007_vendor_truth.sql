-- The vendor's warnings, reasons and FHIR resources are kept beside what they speak of, and a Get Session call
-- remembers when it was last made and since when its answers leave a document undecided.

-- A statement that waits for a lock makes every later statement wait behind it: fail instead, and run again.
SET LOCAL lock_timeout = '10s';

ALTER TABLE sessions
    ADD COLUMN warnings_sealed bytea,           -- what the vendor's answers warn of; NULL: nothing
    ADD COLUMN audio_missing integer[];         -- sequences of ours that the vendor's list after the end lacks

ALTER TABLE documents
    ADD COLUMN annotations_sealed bytea;        -- {warnings, fhir, vendor_code}; NULL: none of them

ALTER TABLE fetches
    ADD COLUMN called_at timestamptz,           -- when the call was last made
    ADD COLUMN verdict text,                    -- what its answers say of the document, where it is not a success
    ADD COLUMN verdict_since timestamptz;       -- since when they say so
