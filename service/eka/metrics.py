"""Metrics of our calls to the vendor, by operation and outcome; no label names a tenant or a patient."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct
from prometheus_client import Counter, Gauge, Histogram

from service.domain.errors import (
    VendorFailure,
    VendorLimited,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)

Operation = Literal[
    "create",
    "upload",
    "end",
    "get",
    "content",
    "change",
    "cancel",
    "make_document",
    "stream",
    "login",
    "refresh",
    "discovery",
    "subscriptions",
    "templates",
]
Outcome = Literal[
    "ok", "refused", "limited", "failed", "timeout", "unreachable", "abandoned", "gate_closed", "line_full"
]

CALLS = Counter(
    "ekabridge_vendor_calls",
    "Calls to EkaScribe by how they ended; gate_closed and line_full were not made",
    ["operation", "outcome"],
)
SECONDS = Histogram(
    "ekabridge_vendor_call_duration_seconds",
    "How long calls to EkaScribe took, those that failed too",
    ["operation"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 45),
)
# The second gauge is the first one's old name, which stays for one release.
OPEN_CIRCUIT_GAUGES = tuple(
    Gauge(name, documentation, ["account"], multiprocess_mode="livemax")
    for name, documentation in (
        (
            "ekabridge_vendor_circuits_open",
            "Accounts whose calls to EkaScribe are held back; default is the shared one, own are tenants'",
        ),
        ("ekabridge_vendor_gates_closed", "The old name of ekabridge_vendor_circuits_open"),
    )
)
PATIENTS_DROPPED = Counter(
    "ekabridge_vendor_patients_dropped",
    "Sessions that EkaScribe created without the patient that was sent, by what a second try came to",
    ["outcome"],
)
for _outcome in ("repaired", "missing"):
    PATIENTS_DROPPED.labels(_outcome)  # from 0 on: a rate does not see the first of a series

_OUTCOMES: dict[type[Exception], Outcome] = {
    VendorTimeout: "timeout",
    VendorLimited: "limited",
    VendorUnavailable: "unreachable",
    VendorFailure: "failed",
    VendorRefused: "refused",
}


class Count(Struct):
    """The outcome of a call, as far as it is known."""

    outcome: Outcome = "abandoned"


@contextmanager
def counted(operation: Operation) -> Iterator[Count]:
    """Count and time one call; its outcome comes from a VendorError, or is set by the caller."""
    count, began = Count(), time.monotonic()
    try:
        yield count
    except tuple(_OUTCOMES) as error:
        count.outcome = next(outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind))
        raise
    finally:
        CALLS.labels(operation, count.outcome).inc()
        SECONDS.labels(operation).observe(time.monotonic() - began)


def outcome_of(status: int) -> Outcome:
    """Return the outcome of a call that was answered with this HTTP status."""
    if status == 429:  # noqa: PLR2004
        return "limited"
    if status >= 500:  # noqa: PLR2004
        return "failed"
    return "refused" if status >= 400 else "ok"  # noqa: PLR2004
