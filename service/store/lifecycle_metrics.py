"""Counts what happens to sessions, documents and deliveries in their lives. No label names a tenant.

The database measures the time between two steps, so that the clocks of different pods cannot distort it.
"""

from asyncpg import Record
from prometheus_client import Counter, Histogram

# From the time of a loopback call to an hour; an alert fires long before that.
_LIFE_BUCKETS = (0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

SESSIONS = Counter("ekabridge_sessions", "Sessions that EkaScribe has created.", ("upload",))
SETTLED = Counter("ekabridge_sessions_settled", "Sessions that got their ending.", ("status",))
for _status in ("completed", "partial", "failed", "expired", "cancelled"):
    SETTLED.labels(_status)  # a rate misses the first event of a series that does not begin with 0
AUDIO_INCOMPLETE = Counter(
    "ekabridge_audio_incomplete",
    "Sessions that lack audio at EkaScribe after the end: it lists fewer files, or refused a chunk.",
)
AUDIO_HELD = Counter(
    "ekabridge_audio_held", "Chunks that EkaScribe did not take when they came, and that are held for it."
)
AUDIO_HANDED_OVER = Counter(
    "ekabridge_audio_handed_over", "Held chunks that were handed over, by EkaScribe's answer.", ("outcome",)
)
for _outcome in ("stored", "refused"):
    AUDIO_HANDED_OVER.labels(_outcome)
STREAM_INTERRUPTIONS = Counter(
    "ekabridge_stream_interruptions",
    "Interruptions of EkaScribe's side of live streams: `held` when audio began to go to PostgreSQL,"
    " `resumed` when EkaScribe had all audio again.",
    ("outcome",),
)
for _outcome in ("held", "resumed"):
    STREAM_INTERRUPTIONS.labels(_outcome)
REMADE = Counter(
    "ekabridge_sessions_remade",
    "Sessions that were made again at EkaScribe from kept audio, by what had become of them there.",
    ("reason",),
)
for _reason in ("vendor_failed", "session_expired", "vendor_session_missing", "audio_incomplete"):
    REMADE.labels(_reason)
END_TO_DOCUMENT = Histogram(
    "ekabridge_end_to_document_seconds",
    "Seconds from the end of a dictation until a document of it was stored.",
    buckets=_LIFE_BUCKETS,
)
END_TO_CHART = Histogram(
    "ekabridge_end_to_chart_seconds",
    "Seconds from the end of a dictation until a destination had accepted a document of it.",
    buckets=_LIFE_BUCKETS,
)
ATTEMPTS = Counter(
    "ekabridge_delivery_attempts", "Attempts at deliveries, by what came of them.", ("type", "outcome")
)
ATTEMPT_SECONDS = Histogram(
    "ekabridge_delivery_duration_seconds",
    "Seconds that calls to destinations took, those that failed too.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 120),
)
DEAD = Counter(
    "ekabridge_deliveries_dead",
    "Deliveries that were given up, by the class of the reason.",
    ("reason_class",),
)


def count_attempt(row: Record) -> None:
    """Count an attempt by the status of its delivery afterwards (deliveries.record_attempts)."""
    status = row["status"]
    if status == "dead" and row["reason"] == "session_erased":
        # The attempt was under way during the erasure: with any outcome the destination misses nothing.
        ATTEMPTS.labels(row["type"], "erased").inc()
        return
    ATTEMPTS.labels(row["type"], "retry" if status == "pending" else status).inc()
    ATTEMPT_SECONDS.observe(row["duration_ms"] / 1000)
    if row["end_to_chart_seconds"] is not None:
        END_TO_CHART.observe(row["end_to_chart_seconds"])
    # A newer version replaces this one: the destination misses nothing.
    if status == "dead" and row["reason"] != "superseded":
        DEAD.labels(reason_class(row["reason"])).inc()


def reason_class(reason: str | None) -> str:
    """Return the class of a reason. Destinations choose their statuses, and each would be a series."""
    name = (reason or "unknown").partition(":")[0]
    return f"http_{name[5]}xx" if name.startswith("http_") else name
