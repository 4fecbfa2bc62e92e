-- name: lease
-- One change of a session at a time, and no end while it is on its way to the vendor.
UPDATE sessions SET change_lease = $2, change_until = now() + make_interval(secs => $3) WHERE id = $1;

-- name: release
-- The change came to nothing.
UPDATE sessions SET change_lease = NULL, change_until = NULL WHERE id = $1 AND change_lease = $2;

-- name: record
-- A change that the vendor has; counts only while the lease stands and the session has not ended.
UPDATE sessions
SET templates = coalesce($3, templates), languages = coalesce($4, languages), mode = coalesce($5, mode),
    model = coalesce($6, model), details_sealed = $7, patient_id_hash = $8, change_lease = NULL, change_until = NULL
WHERE id = $1 AND change_lease = $2 AND status IN ('created', 'recording')
RETURNING id;

-- name: cancel
-- The ending of a session that nobody wants any more; the vendor is owed the call, or is once the present one is over.
UPDATE sessions
SET status = 'cancelled', settled_at = now(), change_lease = NULL, change_until = NULL,
    owed = 'cancel', owed_lease = $2, owed_attempts = CASE WHEN $2::uuid IS NULL THEN 0 ELSE 1 END,
    owed_next_at = CASE WHEN $2::uuid IS NULL THEN owed_next_at ELSE now() + make_interval(secs => $3) END
WHERE id = $1;
