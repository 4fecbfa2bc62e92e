-- name: begin
-- Reserves an Idempotency-Key for a call that starts now; no row when the key is known.
INSERT INTO idempotency_keys (tenant_id, key_hash, request_hash, session_id, lease, lease_until, route)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $7)
ON CONFLICT (tenant_id, key_hash) DO NOTHING
RETURNING session_id;

-- name: lock
-- Reads a key and locks its row; a repeat of makeDocument shows the present session, and reads no stored answer.
SELECT i.request_hash, i.session_id, i.created_at, i.lease_until <= now() AS lease_is_over,
       CASE WHEN i.route IS DISTINCT FROM 'makeDocument' THEN i.answer_sealed END AS answer_sealed,
       i.answer_sealed IS NOT NULL AS is_answered,
       s.erased_at IS NOT NULL OR d.removed_at IS NOT NULL AS is_erased
FROM idempotency_keys i
LEFT JOIN sessions s ON s.id = i.session_id AND i.route IS DISTINCT FROM 'createDestination'
LEFT JOIN destinations d ON d.id = i.session_id AND i.route = 'createDestination'
WHERE i.tenant_id = $1 AND i.key_hash = $2
FOR UPDATE OF i;

-- name: session_state
-- Reads how far the session of an interrupted create call came.
SELECT status, owed FROM sessions WHERE tenant_id = $1 AND id = $2;

-- name: resume
-- Starts a call again whose first try failed, for this session.
UPDATE idempotency_keys SET session_id = $3, lease = $4, lease_until = now() + make_interval(secs => $5)
WHERE tenant_id = $1 AND key_hash = $2;

-- name: finish
-- Stores the answer for every repeat; an erasure in the meantime has ended the lease.
UPDATE idempotency_keys SET answer_sealed = $3, lease = NULL, lease_until = NULL
WHERE tenant_id = $1 AND key_hash = $2 AND lease IS NOT NULL;

-- name: abandon
-- Ends the lease of a failed call: the same key may try again at once.
UPDATE idempotency_keys SET lease = NULL, lease_until = now()
WHERE tenant_id = $1 AND key_hash = $2 AND lease = $3;

-- name: forget
-- Deletes keys older than the time for which a repeat is recognised.
DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1);
