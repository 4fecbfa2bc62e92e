-- So that ten million sessions cost no more than ten thousand do: lists by each filter, and a ledger of which only
-- the last days are counted anew. Where an index is there already, it was made beforehand, without a lock
-- (docs/operations.md, "Large databases").

-- Who waits for a lock makes everybody else wait behind it: rather fail, and be run again.
SET LOCAL lock_timeout = '10s';

-- Erased sessions stand in no list. sessions_newest holds them too: for retention, and for the version before.
CREATE INDEX IF NOT EXISTS sessions_listed ON sessions (tenant_id, created_at DESC, id DESC) WHERE erased_at IS NULL;
CREATE INDEX IF NOT EXISTS sessions_listed_by_status ON sessions (tenant_id, status, created_at DESC, id DESC)
    WHERE erased_at IS NULL;

-- For lists of deliveries of which there are few among many. Each claim would write a pending one anew, and of
-- these there are never many: deliveries_due finds them.
CREATE INDEX IF NOT EXISTS deliveries_by_status ON deliveries (tenant_id, status, created_at DESC, id DESC)
    WHERE status <> 'pending';
CREATE INDEX IF NOT EXISTS deliveries_by_destination
    ON deliveries (tenant_id, destination_id, created_at DESC, id DESC);

-- Who read this session; who did this.
CREATE INDEX IF NOT EXISTS audit_of_object ON audit (tenant_id, object_id, at DESC, id DESC);
CREATE INDEX IF NOT EXISTS audit_by_action ON audit (tenant_id, action, at DESC, id DESC);

-- The ledger looks at what is open, wherever it lies in time: small, and empty where all is well.
CREATE INDEX IF NOT EXISTS sessions_without_ending ON sessions (tenant_id)
    WHERE (ended_at IS NOT NULL OR status = 'expired') AND settled_at IS NULL;
CREATE INDEX IF NOT EXISTS deliveries_dead ON deliveries (tenant_id, session_id)
    WHERE status = 'dead' AND coalesce(reason, '') NOT IN ('session_erased', 'superseded');
CREATE INDEX IF NOT EXISTS documents_by_time ON documents (tenant_id, received_at);

DO $$
DECLARE broken text;
BEGIN
    SELECT string_agg(indexrelid::regclass::text, ', ') INTO broken FROM pg_index
    WHERE NOT indisvalid AND indrelid IN ('sessions'::regclass, 'deliveries'::regclass, 'documents'::regclass,
                                          'audit'::regclass);
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'made beforehand, but interrupted: drop these indexes, then migrate again: %', broken;
    END IF;
END
$$;

-- How many sessions of a tenant, or with '' of all together, were ended or expired on a day (UTC) that is over.
-- Made from the rows by the worker (ledger.fold); without these rows the ledger counts every session.
CREATE TABLE ledger_days (
    tenant_id  text NOT NULL,
    day        date NOT NULL,
    ended      bigint NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, day) INCLUDE (ended)
);

-- Sessions of such days that were not as they should be: each is looked at until it is, or is gone.
CREATE TABLE ledger_suspects (
    session_id text PRIMARY KEY
);

-- Whoever deletes a session, of whatever version: its day has one less. The lock is the one that a day is counted
-- under (ledger.hold), so that it comes wholly before or after.
CREATE FUNCTION forget_in_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(4711002);
    DELETE FROM ledger_suspects WHERE session_id = OLD.id;
    UPDATE ledger_days SET ended = ended - 1
    WHERE tenant_id = OLD.tenant_id AND day = (coalesce(OLD.ended_at, OLD.settled_at) AT TIME ZONE 'UTC')::date;
    UPDATE ledger_days SET ended = ended - 1
    WHERE tenant_id = '' AND day = (coalesce(OLD.ended_at, OLD.settled_at) AT TIME ZONE 'UTC')::date;
    RETURN NULL;
END
$$;
CREATE TRIGGER session_leaves_ledger AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.ended_at IS NOT NULL OR OLD.status = 'expired') EXECUTE FUNCTION forget_in_ledger();

-- The list by status has its successor above. Last of all: from here on nobody reads a session until we are done.
DROP INDEX sessions_newest_by_status;
