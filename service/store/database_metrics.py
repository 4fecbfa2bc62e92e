"""Metrics of the pool of PostgreSQL connections (service/store/database.py)."""

from prometheus_client import Gauge, Histogram

CONNECTIONS = Gauge(
    "ekabridge_database_connections",
    "Open connections to PostgreSQL, by whether they are in use.",
    ("state",),
    multiprocess_mode="livesum",
)
DATABASE_WAIT = Histogram(
    "ekabridge_database_wait_seconds",
    "Seconds that a statement waited for a connection, those that got none too.",
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
