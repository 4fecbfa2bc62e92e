"""Spans and counters of jobs: each job runs in a span of the trace of its dictation."""

from collections.abc import Awaitable, Callable
from typing import get_args

from prometheus_client import Counter

from service.domain.deliveries.models import DeliveryJob
from service.domain.results.models import FetchJob
from service.domain.results.recording import FetchOutcome
from service.domain.sessions.models import PendingCall
from service.observability.tracing import Attributes, note, span_of

FETCHES = Counter("ekabridge_fetches", "Get Session calls that were due, by what came of them.", ("outcome",))
for _outcome in get_args(FetchOutcome):
    FETCHES.labels(_outcome)  # a series that starts at 0: a rate ignores the first value of a series


def count_fetch(outcome: FetchOutcome) -> None:
    """Count a fetch by its outcome, and note the outcome in the current span."""
    FETCHES.labels(outcome).inc()
    note("ekabridge.outcome", outcome)


def traced_fetch(run: Callable[[FetchJob], Awaitable[None]]) -> Callable[[FetchJob], Awaitable[None]]:
    """Wrap a fetch in a span."""

    async def run_traced(job: FetchJob) -> None:
        attributes: Attributes = {
            "ekabridge.session_id": job.session_id,
            "ekabridge.tenant_id": job.tenant_id,
            "ekabridge.template_id": job.template_id,
            "ekabridge.attempt": job.attempts,
        }
        with span_of(job.traceparent, "fetch", "consumer", attributes):
            await run(job)

    return run_traced


def traced_delivery(
    run: Callable[[DeliveryJob], Awaitable[None]],
) -> Callable[[DeliveryJob], Awaitable[None]]:
    """Wrap a delivery attempt in a span."""

    async def run_traced(job: DeliveryJob) -> None:
        attributes: Attributes = {
            "ekabridge.session_id": job.session_id,
            "ekabridge.tenant_id": job.tenant_id,
            "ekabridge.delivery_id": job.id,
            "ekabridge.destination_id": job.destination_id,
            "ekabridge.type": job.type,
            "ekabridge.attempt": job.attempts + 1,
        }
        with span_of(job.traceparent, "delivery", "client", attributes):
            await run(job)

    return run_traced


def traced_call(run: Callable[[PendingCall], Awaitable[None]]) -> Callable[[PendingCall], Awaitable[None]]:
    """Wrap a pending call in a span."""

    async def run_traced(call: PendingCall) -> None:
        attributes: Attributes = {
            "ekabridge.session_id": call.session_id,
            "ekabridge.attempt": call.attempts,
        }
        with span_of(call.traceparent, f"owed {call.call}", "consumer", attributes):
            await run(call)

    return run_traced
