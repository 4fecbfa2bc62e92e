"""What a process tells of its load: requests in work, requests refused, the disk of bodies."""

from prometheus_client import Counter, Gauge

IN_WORK = Gauge(
    "ekabridge_requests_in_work", "Requests in work, by kind.", ("kind",), multiprocess_mode="livesum"
)
SPOOL = Gauge(
    "ekabridge_spool_bytes",
    "Bytes of the disk that bodies have or have announced.",
    multiprocess_mode="livesum",
)
SPOOL_LIMIT = Gauge(
    "ekabridge_spool_limit_bytes", "Bytes of the disk that bodies may have.", multiprocess_mode="livesum"
)
REFUSED = Counter(
    "ekabridge_requests_refused",
    "Requests refused because too much is in work, by kind and by what was used up.",
    ("kind", "reason"),
)
GIVEN_UP = Counter(
    "ekabridge_strangers_given_up",
    "Requests given up before it was known who sent them, by what they used up.",
    ("reason",),
)
WEBHOOKS = Counter(
    "ekabridge_webhooks",
    "Webhooks of EkaScribe by what became of them; failed ones come again.",
    ("outcome",),
)
