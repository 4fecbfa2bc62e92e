-- name: count
-- Counts the sessions that ended or expired by class, and lists those of one class, from one snapshot.
WITH folded AS MATERIALIZED (  -- days that ledger.fold has counted
    SELECT coalesce(min(day), 'infinity') AS since, coalesce(max(day) + 1, '-infinity') AS until FROM ledger_days
    WHERE tenant_id = '' AND day < (now() AT TIME ZONE 'UTC' - interval '1 hour')::date
), asked AS MATERIALIZED (
    SELECT greatest(since, ($2::timestamptz AT TIME ZONE 'UTC' + interval '1 day' - interval '1 microsecond')::date)
               AS first,
           least(until, coalesce(($3::timestamptz AT TIME ZONE 'UTC')::date, 'infinity')) AS over
    FROM folded
), days AS MATERIALIZED (  -- the whole folded days in the interval
    SELECT CASE WHEN first < over THEN first ELSE 'infinity' END AS first,
           CASE WHEN first < over THEN over ELSE 'infinity' END AS over
    FROM asked
), span AS MATERIALIZED (
    SELECT first::timestamp AT TIME ZONE 'UTC' AS first, over::timestamp AT TIME ZONE 'UTC' AS over,
           CASE WHEN isfinite(until) THEN until::timestamp AT TIME ZONE 'UTC' ELSE 'infinity' END AS until
    FROM days, folded
), picked AS MATERIALIZED (  -- the sessions of all other days, and open or dead ones of any day
    SELECT near.id FROM tenants t, span, LATERAL (
        SELECT s.id FROM sessions s
        WHERE s.tenant_id = t.id AND (s.ended_at IS NOT NULL OR s.status = 'expired')
          AND coalesce(s.ended_at, s.settled_at) >= greatest(span.over, $2)
          AND coalesce(s.ended_at, s.settled_at) < coalesce($3, 'infinity')
        UNION ALL
        SELECT s.id FROM sessions s
        WHERE s.tenant_id = t.id AND (s.ended_at IS NOT NULL OR s.status = 'expired')
          AND coalesce(s.ended_at, s.settled_at) >= coalesce($2, '-infinity')
          AND coalesce(s.ended_at, s.settled_at) < least(span.first, $3)
        UNION ALL
        SELECT d.session_id FROM documents d WHERE d.tenant_id = t.id AND d.received_at >= span.until
    ) near
    WHERE $1::text IS NULL OR t.id = $1
    UNION
    SELECT id FROM sessions
    WHERE (ended_at IS NOT NULL OR status = 'expired') AND settled_at IS NULL AND ($1 IS NULL OR tenant_id = $1)
    UNION
    SELECT session_id FROM fetches WHERE status = 'pending' AND ($1 IS NULL OR tenant_id = $1)
    UNION
    SELECT session_id FROM deliveries WHERE status = 'pending' AND ($1 IS NULL OR tenant_id = $1)
    UNION
    SELECT session_id FROM deliveries WHERE status = 'paused' AND ($1 IS NULL OR tenant_id = $1)
    UNION
    SELECT session_id FROM deliveries
    WHERE status = 'dead' AND coalesce(reason, '') NOT IN ('session_erased', 'superseded')
      AND ($1 IS NULL OR tenant_id = $1)
    UNION
    SELECT session_id FROM ledger_suspects
), facts AS MATERIALIZED (  -- scalars and limits force one index lookup per session, however many rows the tables have
    SELECT s.id, coalesce(s.ended_at, s.settled_at) AS at, s.settled_at IS NULL AS lacks_ending,
           coalesce(coalesce(s.ended_at, s.settled_at) >= span.first AND coalesce(s.ended_at, s.settled_at) < span.over,
                    false) AS is_folded,
           -- Audio waits for the vendor, and no call is pending that would hand it over.
           s.settled_at IS NULL AND s.held_since IS NOT NULL AND s.owed IS NULL AS is_forgotten,
           owed.has_fetch, owed.has_further_fetch, sent.is_dead, sent.has_pending, sent.has_paused, sent.has_stranded,
           s.erased_at IS NULL AND s.status <> 'cancelled' AND made.has_unreleased AS has_unreleased,
           s.erased_at IS NULL AND made.has_untold
           OR s.erased_at IS NULL AND s.settled_at IS NOT NULL AND s.status IN ('failed', 'expired')
           AND (SELECT true FROM events e WHERE e.session_id = s.id AND e.type = 'session.' || s.status
                LIMIT 1) IS NULL AS has_untold
    FROM picked, LATERAL (SELECT * FROM sessions WHERE id = picked.id LIMIT 1) s, span, LATERAL (
        SELECT coalesce(bool_or(f.asked IS NULL), false) AS has_fetch,
               coalesce(bool_or(f.asked IS NOT NULL), false) AS has_further_fetch
        FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending'
    ) owed, LATERAL (
        SELECT coalesce(bool_or(d.released_at IS NULL), false) AS has_unreleased,
               coalesce(bool_or(CASE WHEN d.released_at IS NOT NULL THEN (
                   SELECT true FROM events e WHERE e.document_id = d.id LIMIT 1) IS NULL END), false) AS has_untold
        FROM documents d WHERE d.session_id = s.id
    ) made, LATERAL (
        SELECT coalesce(bool_or(d.status = 'dead' AND coalesce(d.reason, '') NOT IN ('session_erased', 'superseded')),
                        false) AS is_dead,
               coalesce(bool_or(d.status = 'pending'), false) AS has_pending,
               coalesce(bool_or(d.status = 'paused'), false) AS has_paused,
               -- These deliveries can never be sent: their destination was removed, or is on and yet they wait.
               coalesce(bool_or(d.status IN ('pending', 'paused') AND t.removed_at IS NOT NULL
                                OR d.status = 'paused' AND t.enabled), false) AS has_stranded
        FROM deliveries d JOIN destinations t ON t.id = d.destination_id WHERE d.session_id = s.id
    ) sent
    WHERE ($1 IS NULL OR s.tenant_id = $1) AND (s.ended_at IS NOT NULL OR s.status = 'expired')
      AND ($2 IS NULL OR coalesce(s.ended_at, s.settled_at) >= $2)
      AND ($3 IS NULL OR coalesce(s.ended_at, s.settled_at) < $3)
), standing AS (
    SELECT id, at, is_folded, is_dead,
           lacks_ending OR has_fetch OR has_further_fetch OR has_pending OR has_paused OR has_unreleased
           OR has_untold AS is_waiting,
           lacks_ending AND NOT has_fetch OR has_unreleased AND NOT has_fetch AND NOT has_further_fetch
           OR has_untold OR has_stranded OR is_forgotten AS is_stuck
    FROM facts
), total AS (
    SELECT (SELECT coalesce(sum(ended), 0) FROM ledger_days d, days
            WHERE d.tenant_id = coalesce($1, '') AND d.day >= days.first AND d.day < days.over)
           + count(*) FILTER (WHERE NOT is_folded) AS ended,
           count(*) FILTER (WHERE NOT is_dead AND is_waiting) AS in_flight,
           count(*) FILTER (WHERE is_dead) AS dead,
           count(*) FILTER (WHERE NOT is_dead AND is_stuck) AS lost,
           coalesce((array_agg(id ORDER BY at, id)
                     FILTER (WHERE CASE $4::text WHEN 'dead' THEN is_dead
                                                 WHEN 'in_flight' THEN NOT is_dead AND is_waiting
                                                 WHEN 'lost' THEN NOT is_dead AND is_stuck
                                                 ELSE false END))[1:$5::integer], '{}') AS shown
    FROM standing
)
SELECT ended::bigint, (ended - in_flight - dead)::bigint AS delivered, in_flight, dead, lost, shown FROM total;

-- name: hold
-- Lets one process fold at a time; no session is deleted until the transaction ends.
SELECT pg_advisory_xact_lock(4711002);

-- name: days_to_come
-- Lists days that were folded before they were over, by a clock that was wrong.
SELECT day FROM ledger_days
WHERE tenant_id = '' AND day >= (now() AT TIME ZONE 'UTC' - interval '1 hour')::date;

-- name: next_day
-- Returns the next day to fold: it is over for an hour, and no transaction from it is still open.
SELECT day FROM (
    SELECT coalesce((SELECT max(day) + 1 FROM ledger_days WHERE tenant_id = ''), (
        SELECT (min(coalesce(s.ended_at, s.settled_at)) AT TIME ZONE 'UTC')::date
        FROM tenants t, LATERAL (
            SELECT ended_at, settled_at FROM sessions
            WHERE tenant_id = t.id AND (ended_at IS NOT NULL OR status = 'expired')
              AND coalesce(ended_at, settled_at) IS NOT NULL
            ORDER BY tenant_id, coalesce(ended_at, settled_at) LIMIT 1
        ) s)) AS day
) next
WHERE day < (now() AT TIME ZONE 'UTC' - interval '1 hour')::date
  -- A transaction's rows carry the time of its beginning, however late it commits.
  AND NOT EXISTS (SELECT FROM pg_stat_activity
                  WHERE datname = current_database() AND xact_start < (day + 1)::timestamp AT TIME ZONE 'UTC');

-- name: oldest_count
-- Returns the folded day that was counted longest ago.
SELECT day FROM ledger_days
WHERE tenant_id = '' AND day < (now() AT TIME ZONE 'UTC' - interval '1 hour')::date
ORDER BY counted_at, day LIMIT 1;

-- name: unfold
-- Unfolds a day.
DELETE FROM ledger_days d USING (SELECT id FROM tenants UNION ALL SELECT '') t
WHERE d.tenant_id = t.id AND d.day = $1
RETURNING d.tenant_id, d.ended;

-- name: fold
-- Folds a day: stores its counts, and marks its sessions and documents that are still open.
WITH bounds AS MATERIALIZED (
    SELECT $1::date::timestamp AT TIME ZONE 'UTC' AS since, ($1::date + 1)::timestamp AT TIME ZONE 'UTC' AS before
), ended AS MATERIALIZED (
    SELECT t.id AS tenant_id, s.id FROM tenants t, bounds, LATERAL (
        SELECT id FROM sessions
        WHERE tenant_id = t.id AND (ended_at IS NOT NULL OR status = 'expired')
          AND coalesce(ended_at, settled_at) >= bounds.since AND coalesce(ended_at, settled_at) < bounds.before
    ) s
), checked AS MATERIALIZED (
    SELECT id FROM ended
    UNION
    SELECT d.session_id FROM tenants t, bounds, LATERAL (
        SELECT session_id FROM documents
        WHERE tenant_id = t.id AND received_at >= bounds.since AND received_at < bounds.before
    ) d
    UNION
    SELECT session_id FROM ledger_suspects
), doubted AS MATERIALIZED (
    SELECT c.id, s.settled_at IS NULL OR s.erased_at IS NULL AND (
        (SELECT true FROM documents d
         WHERE d.session_id = s.id
           AND CASE WHEN d.released_at IS NULL THEN s.status <> 'cancelled'
                    ELSE (SELECT true FROM events e WHERE e.document_id = d.id LIMIT 1) IS NULL END
         LIMIT 1) IS NOT NULL
        OR s.status IN ('failed', 'expired')
           AND (SELECT true FROM events e WHERE e.session_id = s.id AND e.type = 'session.' || s.status LIMIT 1) IS NULL
    ) AS is_suspect
    FROM checked c, LATERAL (SELECT * FROM sessions WHERE id = c.id LIMIT 1) s
), cleared AS (
    DELETE FROM ledger_suspects l USING doubted d WHERE l.session_id = d.id AND NOT d.is_suspect
), suspected AS (
    INSERT INTO ledger_suspects (session_id) SELECT id FROM doubted WHERE is_suspect ON CONFLICT DO NOTHING
)
INSERT INTO ledger_days (tenant_id, day, ended)
SELECT tenant_id, $1, count(*) FROM ended GROUP BY tenant_id
UNION ALL
SELECT '', $1, count(*) FROM ended
RETURNING tenant_id, ended;
