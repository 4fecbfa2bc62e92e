-- What makes deliveries trustworthy: versions in order, one sick destination by itself, secrets that rotate,
-- and content that goes when its time is over.

ALTER TABLE destinations
    ADD COLUMN auth_sealed bytea,            -- OAuth2 client credentials, or a client certificate; NULL: none
    ADD COLUMN previous_until timestamptz,   -- how long the secret before this one still signs
    ADD COLUMN next_slot_at timestamptz,     -- with a rate: when the next call may begin
    ADD COLUMN failures integer NOT NULL DEFAULT 0,  -- calls in a row that did not get through
    ADD COLUMN failing_since timestamptz,    -- when the first of them was
    ADD COLUMN probe_at timestamptz;         -- the breaker is open: when one delivery is tried; NULL: closed

ALTER TABLE deliveries
    ADD COLUMN template_id text,             -- with the session: whose versions are delivered in order
    ADD COLUMN version integer,
    ADD COLUMN confirmed_at timestamptz;     -- when the EMR said that the note is filed

UPDATE deliveries d SET template_id = doc.template_id, version = doc.version
FROM documents doc WHERE doc.id = d.document_id;

CREATE INDEX deliveries_due_at_destination ON deliveries (destination_id, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_of_document ON deliveries (destination_id, session_id, template_id, version);
CREATE INDEX deliveries_dead_at_destination ON deliveries (destination_id, settled_at) WHERE status = 'dead';
CREATE INDEX sessions_with_ending ON sessions (tenant_id, coalesce(ended_at, settled_at))
    WHERE ended_at IS NOT NULL OR status = 'expired';

ALTER TABLE tenants
    ADD COLUMN keep_content_days integer CHECK (keep_content_days > 0),    -- NULL: for ever
    ADD COLUMN keep_metadata_days integer CHECK (keep_metadata_days > 0);

-- For recovery: what happened at a tenant since then.
CREATE INDEX events_of_tenant ON events (tenant_id, created_at);
