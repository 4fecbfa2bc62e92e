-- name: depths
-- Counts due rows by queue, with the age of the oldest.
WITH due AS (  -- deliveries that an open breaker or a Retry-After holds back count as due, too
    SELECT 'fetches' AS queue, next_at FROM fetches WHERE status = 'pending' AND next_at <= now()
    UNION ALL
    SELECT CASE WHEN t.probe_at IS NULL AND (t.retry_after_until IS NULL OR t.retry_after_until <= now())
                THEN 'deliveries' ELSE 'held_deliveries' END, d.next_at
    FROM deliveries d JOIN destinations t ON t.id = d.destination_id
    WHERE d.status = 'pending' AND d.next_at <= now()
    UNION ALL
    SELECT 'owed_calls', owed_next_at FROM sessions WHERE owed IS NOT NULL AND owed_next_at <= now()
    UNION ALL
    SELECT 'sessions_unended', expires_at FROM sessions
    WHERE status IN ('created', 'recording') AND expires_at <= now()
)
SELECT q.queue, count(due.queue) AS depth,
       coalesce(extract(epoch FROM now() - min(due.next_at)), 0)::float8 AS oldest_seconds
FROM unnest(ARRAY['fetches', 'deliveries', 'held_deliveries', 'owed_calls', 'sessions_unended']) AS q (queue)
LEFT JOIN due ON due.queue = q.queue
GROUP BY q.queue;

-- name: leases
-- Counts leases in force; the limit of two minutes keeps the scan short.
SELECT (SELECT count(*) FROM fetches WHERE status = 'pending' AND lease IS NOT NULL
        AND next_at > now() AND next_at <= now() + interval '1 minute') AS fetches,
       (SELECT count(*) FROM deliveries WHERE status = 'pending' AND lease IS NOT NULL
        AND next_at > now() AND next_at <= now() + interval '3 minutes') AS deliveries,
       (SELECT count(*) FROM sessions WHERE owed IS NOT NULL AND owed_lease IS NOT NULL
        AND owed_next_at > now() AND owed_next_at <= now() + interval '2 minutes') AS owed_calls,
       (SELECT count(*) FROM streams WHERE lease_until > now()) AS streams;
