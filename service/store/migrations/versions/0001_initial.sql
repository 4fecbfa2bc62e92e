-- The first schema. Every state that matters is a row here; Redis holds only nudges.
-- Columns of type bytea whose name ends in _sealed hold AES-GCM values (service/store/encryption.py);
-- those that end in _hash hold keyed hashes, so that equality can be asked for without the value.

CREATE TABLE server_secrets (
    name        text PRIMARY KEY,
    value_sealed bytea NOT NULL
);

CREATE TABLE tenants (
    id             text PRIMARY KEY,
    name           text NOT NULL,
    defaults       jsonb NOT NULL DEFAULT '{}',
    account_sealed bytea,               -- own vendor credentials; NULL: shares the default account
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id          text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants (id),
    role        text NOT NULL CHECK (role IN ('emr', 'admin')),
    key_hash    bytea NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_at);

CREATE TABLE sessions (
    id                  text PRIMARY KEY,
    tenant_id           text NOT NULL REFERENCES tenants (id),
    account             text NOT NULL,   -- whose vendor credentials: 'default' or the tenant's id
    status              text NOT NULL CHECK (status IN ('created', 'recording', 'processing', 'completed',
                                                        'partial', 'failed', 'expired', 'cancelled')),
    upload              text NOT NULL CHECK (upload IN ('chunked', 'stream')),
    mode                text NOT NULL,
    model               text NOT NULL,
    templates           text[] NOT NULL,
    languages           text[] NOT NULL,
    transcript_language text,
    details_sealed      bytea,           -- {patient, reference, metadata}
    patient_id_hash     bytea,
    reference_hash      bytea,
    upload_url_sealed   bytea,           -- the vendor's; for a stream it is a capability
    transcript_sealed   bytea,
    model_used          text,
    language_detected   text,
    error_code          text,
    error_message       text,
    vendor_files        integer,         -- how many audio files the vendor said it held when we ended
    created_at          timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz NOT NULL,
    expiry_warned_at    timestamptz,
    ended_at            timestamptz,     -- when the EMR ended it
    settled_at          timestamptz,     -- when it got its ending, good or bad
    -- a vendor call that is owed: 'create' until the vendor is known to have the session, 'end' until it
    -- is known to have been told
    owed                text CHECK (owed IN ('create', 'end')),
    owed_next_at        timestamptz,
    owed_lease          uuid,
    owed_attempts       integer NOT NULL DEFAULT 0,
    CHECK ((owed IS NULL) = (owed_next_at IS NULL))
);
CREATE INDEX sessions_newest ON sessions (tenant_id, created_at DESC, id DESC);
CREATE INDEX sessions_newest_by_status ON sessions (tenant_id, status, created_at DESC, id DESC);
CREATE INDEX sessions_by_reference ON sessions (tenant_id, reference_hash, created_at DESC, id DESC)
    WHERE reference_hash IS NOT NULL;
CREATE INDEX sessions_by_patient ON sessions (tenant_id, patient_id_hash, created_at DESC, id DESC)
    WHERE patient_id_hash IS NOT NULL;
CREATE INDEX sessions_owed ON sessions (owed_next_at) WHERE owed IS NOT NULL;
CREATE INDEX sessions_unended ON sessions (expires_at) WHERE status IN ('created', 'recording');

CREATE TABLE chunks (
    session_id   text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    sequence     integer NOT NULL CHECK (sequence BETWEEN 0 AND 99999),
    tenant_id    text NOT NULL,
    status       text NOT NULL CHECK (status IN ('sending', 'stored')),
    sha256       bytea NOT NULL,
    bytes        bigint NOT NULL CHECK (bytes > 0),
    content_type text NOT NULL,
    file_name    text NOT NULL,
    lease        uuid,
    lease_until  timestamptz,
    stored_at    timestamptz,
    PRIMARY KEY (session_id, sequence)
);

-- What the vendor told us, one row per (account, session, kind, phase) however often it was said.
-- session_id is the sender's word, not a foreign key: events for unknown sessions are recorded too.
CREATE TABLE webhook_events (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account        text NOT NULL,
    session_id     text NOT NULL,
    kind           text NOT NULL,
    phase          text NOT NULL CHECK (phase IN ('unknown', 'early', 'ended')),
    shape          text NOT NULL,
    body_sha256    bytea NOT NULL,
    body_bytes     integer NOT NULL,
    received_at    timestamptz NOT NULL DEFAULT now(),
    repeats        integer NOT NULL DEFAULT 0,
    UNIQUE (account, session_id, kind, phase)
);
CREATE INDEX webhook_events_by_session ON webhook_events (session_id, received_at);

-- One Get Session call that is owed, per template; '' is the call without the filter.
CREATE TABLE fetches (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   text NOT NULL,
    session_id  text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    template_id text NOT NULL,
    status      text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'settled')),
    outcome     text,                   -- how it settled; NULL while pending
    next_at     timestamptz,            -- when it may be claimed; while leased, when the lease ends
    lease       uuid,
    hinted      boolean NOT NULL DEFAULT false,  -- a webhook came while a call was under way
    attempts    integer NOT NULL DEFAULT 0,
    missing     integer NOT NULL DEFAULT 0,  -- how often in a row there was no such thing
    last_error  text,
    settled_at  timestamptz,
    UNIQUE (session_id, template_id),
    CHECK ((status = 'pending') = (next_at IS NOT NULL))
);
CREATE INDEX fetches_due ON fetches (next_at) WHERE status = 'pending';

CREATE TABLE documents (
    id          text PRIMARY KEY,
    tenant_id   text NOT NULL,
    session_id  text NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    template_id text NOT NULL,
    upstream_id text NOT NULL,
    version     integer NOT NULL,
    type        text,
    status      text NOT NULL CHECK (status IN ('success', 'failed')),
    data_sealed bytea,
    error_code  text,
    received_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,            -- when its event entered the outbox
    UNIQUE (session_id, template_id, upstream_id, version)
);
CREATE INDEX documents_by_session ON documents (session_id, received_at, id);

CREATE TABLE destinations (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES tenants (id),
    url_sealed     bytea NOT NULL,      -- may carry a token in its query
    events         text[] NOT NULL,     -- empty: every type
    templates      text[] NOT NULL,     -- empty: every template
    payload        text NOT NULL DEFAULT 'full' CHECK (payload IN ('full', 'reference')),
    format         text NOT NULL DEFAULT 'ekabridge' CHECK (format IN ('ekabridge', 'fhir-r4')),
    headers_sealed bytea,
    secrets_sealed bytea NOT NULL,      -- [current, previous while it rotates]
    timeout_seconds double precision,
    rate_per_second double precision,
    enabled        boolean NOT NULL DEFAULT true,
    paused_reason  text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    removed_at     timestamptz
);
CREATE INDEX destinations_by_tenant ON destinations (tenant_id, created_at DESC, id DESC) WHERE removed_at IS NULL;

-- What there is to tell the EMR, frozen when it happened, so that every attempt says the same.
CREATE TABLE events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   text NOT NULL,
    session_id  text REFERENCES sessions (id) ON DELETE CASCADE,
    document_id text REFERENCES documents (id) ON DELETE CASCADE,
    type        text NOT NULL,
    template_id text,
    body_sealed bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_by_session ON events (session_id);
CREATE INDEX events_by_document ON events (document_id);

CREATE TABLE deliveries (
    id             text PRIMARY KEY,    -- the webhook-id
    tenant_id      text NOT NULL,
    event_id       bigint NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    session_id     text REFERENCES sessions (id) ON DELETE CASCADE,
    document_id    text,
    destination_id text NOT NULL REFERENCES destinations (id),
    type           text NOT NULL,
    status         text NOT NULL DEFAULT 'pending'
                   CHECK (status IN ('pending', 'delivered', 'filed', 'dead', 'paused')),
    attempts       integer NOT NULL DEFAULT 0,   -- calls that the EMR's side answered or failed to
    scheduled      integer NOT NULL DEFAULT 0,   -- places of the schedule that were used up
    next_at        timestamptz,
    lease          uuid,
    reason         text,
    record_id      text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    settled_at     timestamptz,
    UNIQUE (event_id, destination_id),
    CHECK ((status = 'pending') = (next_at IS NOT NULL))
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE status = 'pending';
CREATE INDEX deliveries_by_session ON deliveries (session_id);
CREATE INDEX deliveries_newest ON deliveries (tenant_id, created_at DESC, id DESC);
CREATE INDEX deliveries_paused ON deliveries (destination_id) WHERE status = 'paused';

CREATE TABLE attempts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery_id     text NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    at              timestamptz NOT NULL,
    status_code     integer,
    error_class     text,
    duration_ms     integer NOT NULL,
    response_bytes  bigint,
    response_sha256 bytea
);
CREATE INDEX attempts_by_delivery ON attempts (delivery_id, id);

CREATE TABLE idempotency_keys (
    tenant_id     text NOT NULL,
    key_hash      bytea NOT NULL,
    request_hash  bytea NOT NULL,
    session_id    text NOT NULL,
    answer_sealed bytea,                -- NULL while the first call runs
    lease         uuid,
    lease_until   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key_hash)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- One vendor login at a time across all replicas, and its answer for all of them.
CREATE TABLE vendor_tokens (
    account       text PRIMARY KEY,
    tokens_sealed bytea,
    generation    bigint NOT NULL DEFAULT 0,
    lease         uuid,
    lease_until   timestamptz
);

-- One runner at a time for work that needs no more: the sweep.
CREATE TABLE leases (
    name  text PRIMARY KEY,
    lease uuid NOT NULL,
    until timestamptz NOT NULL
);

CREATE TABLE audit (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    actor     text NOT NULL,            -- an API key's id, or 'cli'
    action    text NOT NULL,
    object_id text NOT NULL,
    facts     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_newest ON audit (tenant_id, at DESC, id DESC);
