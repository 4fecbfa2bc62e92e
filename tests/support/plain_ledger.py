"""The ledger as it was before days were folded: one count over every session, to compare with."""

from __future__ import annotations

from datetime import datetime

from service.store.queries import sql
from tests.support.store_house import House

PLAIN = """
WITH facts AS MATERIALIZED (
    SELECT s.id, coalesce(s.ended_at, s.settled_at) AS at, s.settled_at IS NULL AS lacks_ending,
           s.settled_at IS NULL AND s.held_since IS NOT NULL AND s.owed IS NULL AS is_forgotten,
           EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending'
                   AND f.asked IS NULL) AS has_fetch,
           EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending'
                   AND f.asked IS NOT NULL) AS has_further_fetch,
           EXISTS (SELECT 1 FROM deliveries d WHERE d.session_id = s.id AND d.status = 'dead'
                   AND coalesce(d.reason, '') NOT IN ('session_erased', 'superseded')) AS is_dead,
           EXISTS (SELECT 1 FROM deliveries d WHERE d.session_id = s.id
                   AND d.status = 'pending') AS has_pending,
           EXISTS (SELECT 1 FROM deliveries d WHERE d.session_id = s.id
                   AND d.status = 'paused') AS has_paused,
           EXISTS (SELECT 1 FROM deliveries d JOIN destinations t ON t.id = d.destination_id
                   WHERE d.session_id = s.id AND d.status = 'pending' AND t.removed_at IS NOT NULL)
           OR EXISTS (SELECT 1 FROM deliveries d JOIN destinations t ON t.id = d.destination_id
                      WHERE d.session_id = s.id AND d.status = 'paused'
                        AND (t.removed_at IS NOT NULL OR t.enabled)) AS has_stranded,
           s.erased_at IS NULL AND s.status <> 'cancelled'
           AND EXISTS (SELECT 1 FROM documents d WHERE d.session_id = s.id AND d.released_at IS NULL)
           AS has_unreleased,
           s.erased_at IS NULL
           AND EXISTS (SELECT 1 FROM documents d LEFT JOIN events e ON e.document_id = d.id
                       WHERE d.session_id = s.id AND d.released_at IS NOT NULL AND e.id IS NULL)
           OR s.erased_at IS NULL AND s.settled_at IS NOT NULL AND s.status IN ('failed', 'expired')
           AND NOT EXISTS (SELECT 1 FROM events e WHERE e.session_id = s.id
                           AND e.type = 'session.' || s.status) AS has_untold
    FROM sessions s
    WHERE ($1::text IS NULL OR s.tenant_id = $1) AND (s.ended_at IS NOT NULL OR s.status = 'expired')
      AND ($2::timestamptz IS NULL OR coalesce(s.ended_at, s.settled_at) >= $2)
      AND ($3::timestamptz IS NULL OR coalesce(s.ended_at, s.settled_at) < $3)
), standing AS (
    SELECT id, at, is_dead,
           lacks_ending OR has_fetch OR has_further_fetch OR has_pending OR has_paused OR has_unreleased
           OR has_untold AS is_waiting,
           lacks_ending AND NOT has_fetch OR has_unreleased AND NOT has_fetch AND NOT has_further_fetch
           OR has_untold OR has_stranded OR is_forgotten AS is_stuck
    FROM facts
)
SELECT count(*) AS ended,
       count(*) FILTER (WHERE NOT is_dead AND NOT is_waiting) AS delivered,
       count(*) FILTER (WHERE NOT is_dead AND is_waiting) AS in_flight,
       count(*) FILTER (WHERE is_dead) AS dead,
       count(*) FILTER (WHERE NOT is_dead AND is_stuck) AS lost,
       coalesce((array_agg(id ORDER BY at, id)
                 FILTER (WHERE CASE $4::text WHEN 'dead' THEN is_dead
                                             WHEN 'in_flight' THEN NOT is_dead AND is_waiting
                                             WHEN 'lost' THEN NOT is_dead AND is_stuck
                                             ELSE false END))[1:$5::integer], '{}') AS shown
FROM standing
"""


async def compare(house: House, tenant: str | None, bounds: list[datetime | None], show: str) -> None:
    """Count both ways, from one snapshot."""
    for since in bounds:
        for before in bounds:
            asked = (tenant, since, before, show, 1000)
            async with house.connection.transaction(isolation="repeatable_read"):
                plain = await house.connection.fetchrow(PLAIN, *asked)
                folded = await house.connection.fetchrow(sql("ledger.count"), *asked)
            assert dict(folded) == dict(plain), asked
