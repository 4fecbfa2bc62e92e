-- name: lease
-- Leases the right to change a session, one change at a time, and holds its end back meanwhile.
UPDATE sessions SET change_lease = $2, change_until = now() + make_interval(secs => $3) WHERE id = $1;

-- name: release
-- Releases the lease of a change without a result.
UPDATE sessions SET change_lease = NULL, change_until = NULL WHERE id = $1 AND change_lease = $2;

-- name: record
-- Records a change that the vendor accepted, if the lease still holds and the session has not ended.
UPDATE sessions
SET templates = coalesce($3, templates), languages = coalesce($4, languages), mode = coalesce($5, mode),
    model = coalesce($6, model), details_sealed = $7, patient_id_hash = $8, change_lease = NULL, change_until = NULL
WHERE id = $1 AND change_lease = $2 AND status IN ('created', 'recording')
RETURNING id;

-- name: cancel
-- Cancels a session, with a pending cancel call, due now or after the present pending call.
UPDATE sessions
SET status = 'cancelled', settled_at = now(), held_since = NULL, change_lease = NULL, change_until = NULL,
    owed = 'cancel', owed_lease = $2, owed_attempts = CASE WHEN $2::uuid IS NULL THEN 0 ELSE 1 END,
    owed_next_at = CASE WHEN $2::uuid IS NULL THEN owed_next_at ELSE now() + make_interval(secs => $3) END
WHERE id = $1;
