-- name: insert
-- Inserts a session with its pending create call leased; replaces an existing id only if the vendor refused it.
INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages,
                      transcript_language, details_sealed, patient_id_hash, reference_hash, expires_at,
                      owed, owed_next_at, owed_lease, owed_attempts, traceparent, keep_audio_days)
VALUES ($1, $2, $3, 'created', $4, $5, $6, $7, $8, $9, $10, $11, $12, now() + make_interval(secs => $13),
        'create', now() + make_interval(secs => $14), $15, 1, $16, $17)
ON CONFLICT (id) DO UPDATE
SET (account, status, upload, mode, model, templates, languages, transcript_language, details_sealed,
     patient_id_hash, reference_hash, created_at, expires_at, error_code, error_message, owed, owed_next_at,
     owed_lease, owed_attempts, traceparent, keep_audio_days, vendor_session_id, remade_at, remade_reason)
    = (excluded.account, excluded.status, excluded.upload, excluded.mode, excluded.model, excluded.templates,
       excluded.languages, excluded.transcript_language, excluded.details_sealed, excluded.patient_id_hash,
       excluded.reference_hash, now(), excluded.expires_at, NULL, NULL, excluded.owed, excluded.owed_next_at,
       excluded.owed_lease, 1, excluded.traceparent, excluded.keep_audio_days, NULL, NULL, NULL)
WHERE sessions.tenant_id = excluded.tenant_id AND sessions.status = 'failed'
  AND sessions.error_code = 'vendor_error' AND sessions.settled_at IS NULL AND sessions.erased_at IS NULL
RETURNING id;

-- name: claim_pending_create
-- Leases a pending create call whose caller gave up or died.
UPDATE sessions SET owed_lease = $3, owed_next_at = now() + make_interval(secs => $4),
                    owed_attempts = owed_attempts + 1
WHERE tenant_id = $1 AND id = $2 AND owed = 'create' AND (owed_lease IS NULL OR owed_next_at <= now())
RETURNING coalesce(vendor_session_id, id) AS vendor_id;

-- name: record_created
-- Records that the vendor has the session; its held audio is due next, unless its stream goes on and brings it.
UPDATE sessions SET owed = CASE WHEN held_since IS NOT NULL AND (upload <> 'stream' OR status = 'processing') THEN 'audio' END,
                    owed_next_at = CASE WHEN held_since IS NOT NULL AND (upload <> 'stream' OR status = 'processing') THEN now() END,
                    held_since = CASE WHEN upload <> 'stream' OR status = 'processing' THEN held_since END, owed_lease = NULL,
                    upload_url_sealed = $3,
                    expires_at = CASE WHEN $4::timestamptz > now() THEN $4 ELSE expires_at END
WHERE id = $1 AND owed_lease = $2
RETURNING id, upload;

-- name: hold_create
-- Holds a create call that the vendor did not answer: the session exists here, and the call stays pending.
UPDATE sessions SET held_since = coalesce(held_since, now()), owed_lease = NULL,
                    owed_next_at = now() + make_interval(secs => $3)
WHERE id = $1 AND owed_lease = $2 AND owed = 'create'
RETURNING id;

-- name: plan
-- Reads what a held create call needs.
SELECT coalesce(vendor_session_id, id) AS vendor_id, tenant_id, account, mode, model, templates, languages,
       CASE WHEN vendor_session_id IS NULL THEN upload ELSE 'chunked' END AS upload,
       transcript_language, details_sealed
FROM sessions WHERE id = $1 AND owed_lease = $2;

-- name: renew_pending_call
-- Renews the lease of a pending call that takes longer.
UPDATE sessions SET owed_next_at = now() + make_interval(secs => $3)
WHERE id = $1 AND owed_lease = $2
RETURNING id;

-- name: lock_pending_call
-- Locks a session whose pending call is still leased to us.
SELECT status FROM sessions WHERE id = $1 AND owed_lease = $2 FOR UPDATE;

-- name: finish_handover
-- Ends a handover after its last chunk: the end call is due next if the EMR has ended the session.
UPDATE sessions SET held_since = NULL, owed = CASE WHEN status = 'processing' THEN 'end' END, owed_lease = NULL,
                    owed_attempts = 0, owed_next_at = CASE WHEN status = 'processing' THEN now() END
WHERE id = $1;

-- name: begin_stream_handover
-- Has the held audio of an ended stream handed over in a second session of the vendor, which takes chunks.
WITH moved AS (
    UPDATE sessions s
    SET vendor_session_id = $3, upload_url_sealed = NULL, held_since = coalesce(held_since, now()),
        owed = 'create', owed_lease = NULL, owed_attempts = 0, owed_next_at = now(),
        audio_missing = CASE WHEN t.held_is_whole THEN NULL ELSE '{}'::integer[] END
    FROM streams t
    WHERE s.id = $1 AND s.owed_lease = $2 AND s.upload = 'stream' AND s.status = 'processing'
      AND s.vendor_session_id IS NULL AND t.session_id = s.id
      AND EXISTS (SELECT FROM chunks c WHERE c.session_id = s.id AND c.status = 'held')
    RETURNING s.id
), postponed AS (  -- a call under way asks about the first session: its answer must not count for the second
    UPDATE fetches f SET next_at = greatest(f.next_at, now() + make_interval(secs => $4)), lease = NULL, hinted = false,
                         missing = 0
    FROM moved WHERE f.session_id = moved.id AND f.status = 'pending'
)
SELECT id FROM moved;

-- name: cancel_now
-- Makes the pending cancel of a session due, because the call before it is over.
UPDATE sessions SET owed_next_at = now() WHERE id = $1 AND owed = 'cancel' AND owed_lease IS NULL;

-- name: is_cancelled
-- Checks whether a session was cancelled, or erased before its end.
SELECT 1 FROM sessions WHERE id = $1 AND status = 'cancelled';

-- name: record_never_created
-- Fails a session that the vendor does not have and will not get.
UPDATE sessions SET owed = NULL, owed_next_at = NULL, owed_lease = NULL, status = 'failed',
                    error_code = $3, error_message = $4
WHERE id = $1 AND owed_lease = $2 AND owed = 'create'
RETURNING id;

-- name: reschedule_pending_call
-- Releases a pending call with an unknown outcome, and sets when to look again.
UPDATE sessions SET owed_lease = NULL, owed_next_at = now() + make_interval(secs => $3)
WHERE id = $1 AND owed_lease = $2
RETURNING id;

-- name: release_pending_call
-- Releases a pending call that was not made; it counts as no attempt.
UPDATE sessions SET owed_lease = NULL, owed_attempts = owed_attempts - 1,
                    owed_next_at = now() + make_interval(secs => $3)
WHERE id = $1 AND owed_lease = $2
RETURNING id;

-- name: record_end_told
-- Records the end at the vendor and the chunks that it lacks ({}: unknown which); with $6 only if no remake may follow.
WITH locked AS (
    SELECT id, $6::boolean AND keep_audio_days IS NOT NULL AND remade_at IS NULL AS may_be_remade
    FROM sessions WHERE id = $1 AND owed_lease = $2 AND owed = 'end' FOR UPDATE
), compared AS (  -- a chunk that the vendor refused is missing, whatever the vendor lists
    SELECT CASE WHEN $4::integer[] IS NULL AND count(*) FILTER (WHERE status = 'stored') > $3::integer THEN '{}'
                ELSE array_agg(sequence ORDER BY sequence) FILTER (WHERE status = 'refused' OR NOT sequence = ANY($4))
           END AS missing,
           coalesce(bool_or(status = 'stored' AND NOT sequence = ANY($4)), false)
           OR coalesce($4 IS NULL AND count(*) FILTER (WHERE status = 'stored') > $3, false) AS has_lost
    FROM chunks WHERE session_id = $1 AND status IN ('stored', 'refused')
), told AS (
    UPDATE sessions s SET owed = NULL, owed_next_at = NULL, owed_lease = NULL, vendor_files = $3,
                          audio_missing = coalesce(compared.missing, s.audio_missing)
    FROM locked, compared WHERE s.id = locked.id AND NOT (locked.may_be_remade AND compared.has_lost)
    RETURNING s.id
), hurried AS (
    UPDATE fetches f SET next_at = now() + make_interval(secs => $5) FROM told
    WHERE f.session_id = told.id AND f.status = 'pending' AND f.lease IS NULL
      AND f.next_at > now() + make_interval(secs => $5)
)
SELECT locked.id, compared.missing AS audio_missing, locked.may_be_remade AND compared.has_lost AS may_be_remade
FROM locked, compared;

-- name: remake
-- Makes a session due again at the vendor, once, under another id, if all its audio is here; forgets its results so far.
WITH remade AS (
    UPDATE sessions s
    SET vendor_session_id = $2, remade_at = now(), remade_reason = $3, held_since = now(),
        status = CASE WHEN ended_at IS NULL THEN 'recording' ELSE 'processing' END,
        owed = 'create', owed_next_at = now(), owed_lease = NULL, owed_attempts = 0, upload_url_sealed = NULL,
        vendor_files = NULL, audio_missing = NULL, transcript_sealed = NULL, warnings_sealed = NULL, model_used = NULL,
        language_detected = NULL
    WHERE id = $1 AND remade_at IS NULL AND upload = 'chunked' AND settled_at IS NULL
      AND (status = 'processing' OR status = 'recording' AND expires_at > now())
      AND ($4::uuid IS NULL OR owed_lease = $4)
      AND NOT EXISTS (SELECT FROM documents d WHERE d.session_id = s.id)
      AND EXISTS (SELECT FROM chunks c WHERE c.session_id = s.id AND c.status <> 'sending')
      AND NOT EXISTS (SELECT FROM chunks c WHERE c.session_id = s.id AND c.status <> 'sending' AND c.bytes <> (
          SELECT coalesce(sum(b.bytes), 0) FROM audio_blocks b WHERE b.session_id = c.session_id AND b.sequence = c.sequence))
    RETURNING id, ended_at
), held_again AS (
    UPDATE chunks c SET status = 'held', held_at = now(), stored_at = NULL
    FROM remade WHERE c.session_id = remade.id AND c.status IN ('stored', 'refused')
), dropped AS (  -- checks for an end that nobody made, and the unfiltered call that follows other calls
    DELETE FROM fetches f USING remade, sessions s
    WHERE f.session_id = remade.id AND s.id = remade.id
      AND (remade.ended_at IS NULL OR f.template_id = '' AND cardinality(s.templates) > 0)
), postponed AS (  -- the end at the vendor makes them due sooner
    UPDATE fetches f
    SET status = 'pending', outcome = NULL, settled_at = NULL, lease = NULL, attempts = 0, missing = 0, hinted = false,
        last_error = NULL, verdict = NULL, verdict_since = NULL, called_at = NULL,
        next_at = now() + make_interval(secs => $5)
    FROM remade, sessions s
    WHERE f.session_id = remade.id AND s.id = remade.id AND remade.ended_at IS NOT NULL
      AND (f.template_id <> '' OR cardinality(s.templates) = 0)
)
SELECT id FROM remade;

-- name: lock
-- Locks a session's row; checks the tenant if one is given.
SELECT id, coalesce(vendor_session_id, id) AS vendor_id, tenant_id, account, status, upload, templates, details_sealed,
       transcript_sealed, warnings_sealed,
       audio_missing, model_used, language_detected, owed, owed_lease,
       owed_next_at <= now() AS owed_due, ended_at, expires_at <= now() AS is_past, model, languages,
       erased_at IS NOT NULL AS is_erased, settled_at IS NOT NULL AS is_final,
       held_since IS NOT NULL AS is_held, coalesce(change_until > now(), false) AS is_changing, keep_audio_days
FROM sessions WHERE id = $1 AND ($2::text IS NULL OR tenant_id = $2)
FOR UPDATE;

-- name: begin_end
-- Ends a session: the only statement that does, with the pending end call leased to us.
UPDATE sessions SET status = 'processing', ended_at = now(), owed = 'end', owed_lease = $2, owed_attempts = 1,
                    owed_next_at = now() + make_interval(secs => $3)
WHERE id = $1;

-- name: begin_held_end
-- Ends a session whose audio is held: the end call follows when the vendor has all of it.
UPDATE sessions SET status = 'processing', ended_at = now() WHERE id = $1;

-- name: claim_pending_end
-- Leases a pending end call whose caller gave up or died.
UPDATE sessions SET owed_lease = $2, owed_next_at = now() + make_interval(secs => $3),
                    owed_attempts = owed_attempts + 1
WHERE id = $1;

-- name: claim_pending_calls
-- Leases due pending calls, except those of the accounts and `tenant:…` in $3.
WITH due AS (
    SELECT id FROM sessions WHERE owed IS NOT NULL AND owed_next_at <= now()
      AND account <> ALL($3::text[]) AND 'tenant:' || tenant_id <> ALL($3)
    ORDER BY owed_next_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE sessions s SET owed_lease = gen_random_uuid(), owed_next_at = now() + make_interval(secs => $2),
                      owed_attempts = owed_attempts + 1
FROM due WHERE s.id = due.id
RETURNING s.id, coalesce(s.vendor_session_id, s.id) AS vendor_id, s.tenant_id, s.account, s.owed, s.owed_lease, s.owed_attempts, s.upload, s.traceparent,
          extract(epoch FROM now() - s.held_since)::float8 AS held_seconds,
          (SELECT count(*) FROM chunks c WHERE c.session_id = s.id AND c.status = 'stored') AS chunks;

-- name: settle
-- Sets a session's final status; one that expired without an end keeps that time in the ledger.
UPDATE sessions SET status = $2, owed = NULL, owed_next_at = NULL, owed_lease = NULL, held_since = NULL,
                    error_code = $3, error_message = $4,
                    ended_at = coalesce(ended_at, settled_at), settled_at = now()
WHERE id = $1;

-- name: record_result
-- Records an answer's facts about the whole session; the first transcript stays.
UPDATE sessions SET transcript_sealed = coalesce(transcript_sealed, $2), model_used = coalesce($3, model_used),
                    language_detected = coalesce($4, language_detected), warnings_sealed = coalesce($5, warnings_sealed)
WHERE id = $1;

-- name: past
-- Lists sessions that have expired without an end.
SELECT id FROM sessions
WHERE status IN ('created', 'recording') AND expires_at <= now() AND (owed IS NULL OR held_since IS NOT NULL)
ORDER BY expires_at LIMIT $1;

-- name: ended_badly
-- Lists sessions since a time, of one tenant or of all, that ended badly and may have more at the vendor.
SELECT id, tenant_id FROM sessions
WHERE ($1::text IS NULL OR tenant_id = $1) AND created_at >= $2 AND status IN ('partial', 'failed', 'expired')
  AND erased_at IS NULL AND owed IS NULL AND (settled_at IS NOT NULL OR status = 'failed')
ORDER BY created_at LIMIT $3;

-- name: tenant_of
-- Reads the tenant of a session.
SELECT tenant_id FROM sessions WHERE id = $1;

-- name: warn_expiring
-- Marks and returns sessions with audio that expire soon without an end, each once.
UPDATE sessions SET expiry_warned_at = now()
WHERE id IN (SELECT id FROM sessions
             WHERE status = 'recording' AND expires_at <= now() + make_interval(secs => $1)
               AND expires_at > now() AND expiry_warned_at IS NULL
             ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING id, tenant_id, expires_at;

-- name: record_cancel_told
-- Settles a pending cancel: the vendor was told, or no longer needs to be told.
UPDATE sessions SET owed = NULL, owed_next_at = NULL, owed_lease = NULL
WHERE id = $1 AND owed_lease = $2 AND owed = 'cancel';

-- name: show_partial
-- Shows a session as partial while more documents are expected.
UPDATE sessions SET status = 'partial' WHERE id = $1 AND status = 'processing';

-- name: standings
-- Reads the status of each session; `incomplete` for a partial one that waits for more documents.
SELECT id, CASE WHEN status = 'partial' AND settled_at IS NULL THEN 'incomplete' ELSE status END AS standing
FROM sessions WHERE id = ANY($1);

-- name: marks
-- Returns for each session a token that changes whenever its timeline changes or becomes complete.
SELECT s.id, concat_ws('.', s.xmin,
       (SELECT concat_ws('.', count(*), max(c.stored_at), count(c.held_at)) FROM chunks c WHERE c.session_id = s.id),
       (SELECT r.cut_at FROM recordings r WHERE r.session_id = s.id),
       (SELECT count(*) FROM webhook_events w WHERE w.session_id IN (s.id, s.vendor_session_id)),
       (SELECT concat_ws('.', count(*), count(c.closed_at)) FROM stream_connections c WHERE c.session_id = s.id),
       (SELECT concat_ws('.', count(*), count(i.resumed_at)) FROM stream_interruptions i WHERE i.session_id = s.id),
       (SELECT concat_ws('.', count(*), count(f.settled_at), max(f.settled_at)) FROM fetches f WHERE f.session_id = s.id),
       (SELECT count(*) FROM documents d WHERE d.session_id = s.id),
       (SELECT concat_ws('.', count(*), count(d.settled_at), count(d.next_at), sum(d.attempts), count(d.confirmed_at))
        FROM deliveries d WHERE d.session_id = s.id)) AS mark
FROM sessions s WHERE s.id = ANY($1);

-- name: traceparent
-- Reads the traceparent of a session.
SELECT traceparent FROM sessions WHERE id = $1 OR vendor_session_id = $1 LIMIT 1;

-- name: outlook
-- Checks whether a session was erased, and whether it may still change.
SELECT s.erased_at IS NOT NULL AS is_erased,
       (s.settled_at IS NOT NULL OR s.status = 'failed')
       AND NOT EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = s.id AND f.status = 'pending')
       AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.session_id = s.id AND d.status = 'pending') AS is_over
FROM sessions s WHERE s.tenant_id = $1 AND s.id = $2;

-- name: view
-- Reads one session for the EMR; of a long transcript only the size.
SELECT s.id, s.status, s.upload, s.templates, s.mode, s.model, s.languages, s.transcript_language, s.details_sealed,
       s.warnings_sealed, s.audio_missing, s.model_used, s.language_detected, s.error_code, s.error_message,
       s.created_at, s.expires_at, s.ended_at, s.settled_at, s.erased_at,
       octet_length(s.transcript_sealed) AS transcript_bytes,
       CASE WHEN octet_length(s.transcript_sealed) <= 65536 THEN s.transcript_sealed END AS transcript_sealed,
       coalesce(r.bytes, u.received) AS recording_bytes, r.seconds AS recording_seconds, r.chunks AS recording_chunks,
       u.received IS NOT NULL AND s.status IN ('created', 'recording') AS is_uploading,
       CASE WHEN s.upload = 'recording' THEN
           (SELECT count(*) FROM chunks c WHERE c.session_id = s.id AND c.status = 'stored') END AS chunks_stored,
       (SELECT count(*) FROM chunks c WHERE c.session_id = s.id AND c.status IN ('held', 'stored')) AS chunks_received
FROM sessions s LEFT JOIN recordings r ON r.session_id = s.id LEFT JOIN recording_uploads u ON u.session_id = s.id
WHERE s.tenant_id = $1 AND s.id = $2;

-- name: page
-- Reads one page of a tenant's sessions, newest first; of transcripts only the sizes.
SELECT s.id, s.status, s.upload, s.templates, s.mode, s.model, s.languages, s.transcript_language, s.details_sealed,
       s.warnings_sealed, s.audio_missing, s.model_used, s.language_detected, s.error_code, s.error_message,
       s.created_at, s.expires_at, s.ended_at, s.settled_at, s.erased_at,
       octet_length(s.transcript_sealed) AS transcript_bytes,
       NULL::bytea AS transcript_sealed,
       coalesce(r.bytes, u.received) AS recording_bytes, r.seconds AS recording_seconds, r.chunks AS recording_chunks,
       u.received IS NOT NULL AND s.status IN ('created', 'recording') AS is_uploading,
       CASE WHEN s.upload = 'recording' THEN
           (SELECT count(*) FROM chunks c WHERE c.session_id = s.id AND c.status = 'stored') END AS chunks_stored,
       (SELECT count(*) FROM chunks c WHERE c.session_id = s.id AND c.status IN ('held', 'stored')) AS chunks_received
FROM sessions s LEFT JOIN recordings r ON r.session_id = s.id LEFT JOIN recording_uploads u ON u.session_id = s.id
WHERE s.tenant_id = $1 AND s.erased_at IS NULL
  AND ($2::text IS NULL OR s.status = $2)
  AND ($3::bytea IS NULL OR s.reference_hash = $3)
  AND ($4::bytea IS NULL OR s.patient_id_hash = $4)
  AND ($5::timestamptz IS NULL OR s.created_at > $5)
  AND ($6::timestamptz IS NULL OR (s.created_at, s.id) < ($6, $7))
ORDER BY s.created_at DESC, s.id DESC
LIMIT $8;

-- name: transcripts
-- Reads the transcripts of these sessions, encrypted.
SELECT id, transcript_sealed FROM sessions WHERE tenant_id = $1 AND id = ANY($2);

-- name: document_summaries
-- Lists the newest version of each document of these sessions, without replaced documents.
SELECT d.id, d.session_id, d.template_id, d.status, d.type, d.received_at
FROM (SELECT DISTINCT ON (session_id, template_id, upstream_id) *
      FROM documents WHERE session_id = ANY($1)
      ORDER BY session_id, template_id, upstream_id, version DESC) d
WHERE NOT EXISTS (
    -- A replacement began later under another id, after a re-run or a failure of this document.
    SELECT 1 FROM documents e
    WHERE e.session_id = d.session_id AND e.template_id = d.template_id AND e.upstream_id <> d.upstream_id
      AND e.version > d.version AND (e.status = 'success' OR d.status = 'failed')
      AND (d.status = 'failed' OR EXISTS (SELECT 1 FROM fetches f WHERE f.session_id = d.session_id
                                          AND f.template_id = d.template_id AND f.asked IS NOT NULL))
      AND NOT EXISTS (SELECT 1 FROM documents b
                      WHERE b.session_id = e.session_id AND b.template_id = e.template_id
                        AND b.upstream_id = e.upstream_id AND b.version <= d.version)
)
ORDER BY d.session_id, d.template_id, d.upstream_id;

-- name: delivery_counts
-- Counts the deliveries of these sessions by status.
SELECT session_id,
       count(*) FILTER (WHERE status IN ('pending', 'paused')) AS pending,
       count(*) FILTER (WHERE status IN ('delivered', 'filed')) AS delivered,
       count(*) FILTER (WHERE status = 'dead') AS dead
FROM deliveries WHERE session_id = ANY($1)
GROUP BY session_id;

-- name: timeline_size
-- Estimates the size of a timeline; only chunks and attempts can be very many.
SELECT (SELECT count(*) FROM chunks WHERE session_id = $1 AND status <> 'sending')
       + (SELECT coalesce(sum(attempts), 0) FROM deliveries WHERE session_id = $1) AS entries;

-- name: timeline
-- Assembles the timeline of a session from its rows.
SELECT created_at AS at, 'session.created' AS type,
       jsonb_build_object('upload', upload, 'templates', to_jsonb(templates)) AS data
FROM sessions WHERE id = $1
UNION ALL
SELECT stored_at, 'chunk.stored',
       jsonb_build_object('sequence', sequence, 'bytes', bytes, 'sha256', encode(sha256, 'hex'))
FROM chunks WHERE session_id = $1 AND status = 'stored'
UNION ALL
SELECT held_at, 'chunk.held',
       jsonb_build_object('sequence', sequence, 'bytes', bytes, 'sha256', encode(sha256, 'hex'))
FROM chunks WHERE session_id = $1 AND held_at IS NOT NULL
UNION ALL
SELECT received_at, 'recording.received',
       jsonb_build_object('bytes', bytes, 'seconds', seconds, 'sha256', encode(sha256, 'hex'))
FROM recordings WHERE session_id = $1
UNION ALL
SELECT cut_at, 'recording.cut', jsonb_build_object('chunks', chunks)
FROM recordings WHERE session_id = $1 AND cut_at IS NOT NULL
UNION ALL
SELECT remade_at, 'session.remade', jsonb_build_object('reason', remade_reason)
FROM sessions WHERE id = $1 AND remade_at IS NOT NULL
UNION ALL
SELECT opened_at, 'stream.opened', '{}'
FROM stream_connections WHERE session_id = $1
UNION ALL
SELECT began_at, 'stream.interrupted', jsonb_build_object('cause', cause)
FROM stream_interruptions WHERE session_id = $1
UNION ALL
SELECT resumed_at, 'stream.resumed',
       jsonb_build_object('seconds', round(extract(epoch FROM resumed_at - began_at)::numeric, 3),
                          'frames', held_frames, 'bytes', replayed_bytes)
FROM stream_interruptions WHERE session_id = $1 AND resumed_at IS NOT NULL
UNION ALL
SELECT closed_at, 'stream.closed',
       jsonb_build_object('cause', cause, 'code', code, 'frames', frames, 'bytes', bytes)
FROM stream_connections WHERE session_id = $1 AND closed_at IS NOT NULL
UNION ALL
SELECT ended_at, 'session.ended',
       jsonb_build_object('chunks', (SELECT count(*) FROM chunks WHERE session_id = $1 AND status IN ('held', 'stored')),
                          'vendor_files', vendor_files,
                          'told_vendor', coalesce(owed NOT IN ('create', 'audio', 'end'), true))
FROM sessions WHERE id = $1 AND ended_at IS NOT NULL
UNION ALL
SELECT w.received_at, 'webhook.received',
       jsonb_build_object('event', w.kind, 'shape', w.shape, 'before_end', w.phase = 'early', 'repeats', w.repeats)
FROM sessions s JOIN webhook_events w ON w.session_id IN (s.id, s.vendor_session_id) AND w.account = s.account WHERE s.id = $1
UNION ALL
SELECT settled_at, 'result.fetched',
       jsonb_build_object('template_id', nullif(template_id, ''), 'outcome', outcome, 'attempts', attempts)
FROM fetches WHERE session_id = $1 AND status = 'settled'
UNION ALL
SELECT received_at, 'document.received',
       jsonb_build_object('document_id', id, 'template_id', template_id, 'status', status, 'version', version)
FROM documents WHERE session_id = $1
UNION ALL
SELECT a.at, 'delivery.attempted',
       jsonb_build_object('delivery_id', d.id, 'type', d.type, 'destination_id', d.destination_id,
                          'document_id', d.document_id, 'status_code', a.status_code,
                          'error_class', a.error_class, 'duration_ms', a.duration_ms)
FROM deliveries d JOIN attempts a ON a.delivery_id = d.id WHERE d.session_id = $1
UNION ALL
SELECT d.settled_at, 'delivery.' || CASE WHEN d.confirmed_at IS NULL THEN d.status ELSE 'delivered' END,
       jsonb_build_object('delivery_id', d.id, 'destination_id', d.destination_id, 'reason', d.reason)
FROM deliveries d WHERE d.session_id = $1 AND d.settled_at IS NOT NULL
UNION ALL
SELECT d.confirmed_at, 'delivery.filed',
       jsonb_build_object('delivery_id', d.id, 'destination_id', d.destination_id, 'confirmed', true)
FROM deliveries d WHERE d.session_id = $1 AND d.confirmed_at IS NOT NULL
UNION ALL
SELECT settled_at, 'session.' || status, jsonb_build_object('error', error_code)
FROM sessions WHERE id = $1 AND settled_at IS NOT NULL
ORDER BY at, type, data LIMIT $2 OFFSET $3;
