"""Runs a job in the trace of the dictation that it works for."""

from collections.abc import Awaitable, Callable

from service.domain.models import DeliveryJob, FetchJob, PendingCall
from service.observability.tracing import Attributes, span_of


def traced_fetch(run: Callable[[FetchJob], Awaitable[None]]) -> Callable[[FetchJob], Awaitable[None]]:
    """Return what runs a fetch inside a span of its own."""

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
    """Return what attempts a delivery inside a span of its own."""

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
    """Return what makes a call that is owed inside a span of its own."""

    async def run_traced(call: PendingCall) -> None:
        attributes: Attributes = {
            "ekabridge.session_id": call.session_id,
            "ekabridge.attempt": call.attempts,
        }
        with span_of(call.traceparent, f"owed {call.call}", "consumer", attributes):
            await run(call)

    return run_traced
