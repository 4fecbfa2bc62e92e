"""What is counted of fetches, which the rules tell by a word."""

from typing import get_args

from prometheus_client import Counter

from service.domain.results.recording import FetchOutcome
from service.observability.tracing import note

FETCHES = Counter("ekabridge_fetches", "Get Session calls that were due, by what came of them.", ("outcome",))
for _outcome in get_args(FetchOutcome):
    FETCHES.labels(_outcome)  # from 0 on: a rate does not see the first of a series that begins with it


def count_fetch(outcome: FetchOutcome) -> None:
    """Count one, and say of its span what came of it."""
    FETCHES.labels(outcome).inc()
    note("ekabridge.outcome", outcome)
