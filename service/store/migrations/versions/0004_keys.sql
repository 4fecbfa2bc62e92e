-- Which encryption keys sealed anything, so that a lost one is told before work begins; the walk that brings
-- every value under the first key; and an audit trail that the database itself keeps from being changed.

CREATE TABLE encryption_keys (
    key_id        text PRIMARY KEY,          -- by which sealed values name it, hexadecimal; says nothing of the key
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    heard_at      timestamptz NOT NULL DEFAULT now(),  -- when a process last said that it seals with it
    retired_at    timestamptz                -- nothing is under it any more, or was given up
);

-- Each running process and the key with which it seals. One that was killed counts until its time is over.
CREATE TABLE sealers (
    process uuid PRIMARY KEY,
    key_id  text NOT NULL,
    until   timestamptz NOT NULL
);

-- How far the walk over each table has come.
CREATE TABLE resealing (
    table_name  text PRIMARY KEY,
    key_id      text NOT NULL,               -- under which its values are brought
    after       text NOT NULL DEFAULT '',    -- the last row that was looked at; '': none yet
    resealed    bigint NOT NULL DEFAULT 0,
    left_over   bigint NOT NULL DEFAULT 0,   -- rows that others held or changed each time: the walk comes again
    unreadable  bigint NOT NULL DEFAULT 0,   -- values that do not open
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- The keys of the small tables are known at once, the installation's own secret among them; what else sealed
-- anything, the first walk finds.
INSERT INTO encryption_keys (key_id)
SELECT DISTINCT encode(substring(value FROM 2 FOR 4), 'hex')
FROM (SELECT value_sealed AS value FROM server_secrets
      UNION ALL SELECT account_sealed FROM tenants
      UNION ALL SELECT tokens_sealed FROM vendor_tokens
      UNION ALL SELECT unnest(ARRAY[url_sealed, headers_sealed, secrets_sealed, auth_sealed]) FROM destinations) v
WHERE get_byte(value || '\x00', 0) = 1 AND length(value) >= 33;

CREATE FUNCTION refuse_to_change_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_audit();
-- Also where triggers are switched off for a session.
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only;
