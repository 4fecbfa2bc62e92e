"""The routes of health and metrics: those of the service, and the worker's small application.

Readiness (readiness.py) decides the answer of /health/ready in both processes. /health/live of the service
only answers; that of the worker asks whether the sweep still runs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from litestar import Litestar, Request, Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.dependencies import Services
from service.api.readiness import Readiness, Ready
from service.api.request_classes import REQUEST_CLASS
from service.http_server import is_shutting_down
from service.observability.metrics_exposition import exposition


class Live(Struct, frozen=True):
    """The body of /health/live."""

    status: Literal["alive", "stuck"]


@get(
    "/health/live",
    operation_id="live",
    opt={REQUEST_CLASS: None},
    summary="Is the process alive",
    tags=["Operators"],
)
async def live() -> Live:
    """Answer at once: the process runs and its event loop is not blocked."""
    return Live("alive")


@get(
    "/health/ready",
    operation_id="ready",
    opt={REQUEST_CLASS: None},
    summary="Can it serve",
    tags=["Operators"],
    responses={503: ResponseSpec(Ready, description="It cannot", generate_examples=False)},
)
async def ready(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Ready]:
    """Check database and Redis; a process that is shutting down is not ready."""
    return await services.operations.readiness.respond(is_stopping=is_shutting_down(request.scope))


@get(
    "/metrics",
    operation_id="metrics",
    opt={REQUEST_CLASS: None},
    summary="Prometheus metrics",
    tags=["Operators"],
    media_type=MediaType.TEXT,
)
async def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Return all metrics of the processes behind this port."""
    return await metrics_response(services.operations.readiness.ping_redis)


async def metrics_response(ping_redis: Callable[[], Awaitable[bool]]) -> Response[bytes]:
    """Return all metrics, after a ping of Redis, so that an outage shows even while nothing uses Redis."""
    await ping_redis()
    return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE_LATEST)


class WorkerHealth(Struct, frozen=True, kw_only=True):
    """The functions that the worker's health endpoints call."""

    readiness: Readiness
    is_alive: Callable[[], bool]
    is_stopping: Callable[[], bool]


def create_worker_app(health: WorkerHealth) -> Litestar:
    """Make the application that serves the worker's health and metrics."""

    @get("/health/live")
    async def live() -> Response[Live]:
        """Report whether the sweep still runs; a blocked event loop would not answer at all."""
        alive = health.is_alive()
        return Response(Live("alive" if alive else "stuck"), status_code=200 if alive else 503)

    @get("/health/ready")
    async def ready() -> Response[Ready]:
        """Check database and Redis; a process that is shutting down is not ready."""
        return await health.readiness.respond(is_stopping=health.is_stopping())

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        """Return all metrics of this process."""
        return await metrics_response(health.readiness.ping_redis)

    return Litestar([live, ready, metrics], openapi_config=None, logging_config=None)
