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
    ADD COLUMN lineage text,                 -- the document's: its versions are delivered in order
    ADD COLUMN version integer,
    ADD COLUMN confirmed_at timestamptz;     -- when the EMR said that the note is filed

-- The first version's id, which all later versions of a document share, under whatever id the vendor has them.
-- NULL, as a process of the version before leaves it: the document's own.
ALTER TABLE documents ADD COLUMN lineage text;
UPDATE documents d SET lineage = (SELECT f.id FROM documents f
                                  WHERE f.session_id = d.session_id AND f.template_id = d.template_id
                                  ORDER BY f.upstream_id = d.upstream_id DESC, f.version, f.received_at LIMIT 1);
UPDATE deliveries d SET lineage = doc.lineage, version = doc.version FROM documents doc WHERE doc.id = d.document_id;

CREATE INDEX deliveries_due_at_destination ON deliveries (destination_id, next_at) WHERE status = 'pending';
CREATE INDEX deliveries_of_document ON deliveries (destination_id, lineage, version);
CREATE INDEX deliveries_dead_at_destination ON deliveries (destination_id, settled_at) WHERE status = 'dead';
CREATE INDEX sessions_with_ending ON sessions (tenant_id, coalesce(ended_at, settled_at))
    WHERE ended_at IS NOT NULL OR status = 'expired';

ALTER TABLE tenants
    ADD COLUMN keep_content_days integer CHECK (keep_content_days > 0),    -- NULL: for ever
    ADD COLUMN keep_metadata_days integer CHECK (keep_metadata_days > 0);

-- For recovery: what happened at a tenant since then.
CREATE INDEX events_of_tenant ON events (tenant_id, created_at);
