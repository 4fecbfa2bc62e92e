"""Health, metrics: what an operator's tools ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.dependencies import Services
from service.api.readiness import Ready
from service.api.request_classes import REQUEST_KIND
from service.http_server import is_shutting_down
from service.observability.metrics import exposition


class Live(Struct, frozen=True):
    """The process runs."""

    status: Literal["alive", "stuck"]


@get(
    "/health/live",
    operation_id="live",
    opt={REQUEST_KIND: None},
    summary="Is the process alive",
    tags=["Operators"],
)
async def live() -> Live:
    """Answer without asking anybody."""
    return Live("alive")


@get(
    "/health/ready",
    operation_id="ready",
    opt={REQUEST_KIND: None},
    summary="Can it serve",
    tags=["Operators"],
    responses={503: ResponseSpec(Ready, description="It cannot", generate_examples=False)},
)
async def ready(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Ready]:
    """Ask the database and Redis; a process that is to stop is not ready."""
    return await services.readiness.look(is_stopping=is_shutting_down(request.scope))


@get(
    "/metrics",
    operation_id="metrics",
    opt={REQUEST_KIND: None},
    summary="Prometheus metrics",
    tags=["Operators"],
    media_type=MediaType.TEXT,
)
async def metrics(services: NamedDependency[Services]) -> Response[bytes]:
    """Return every metric of all processes behind this port."""
    return await exposed(services.readiness.ping_redis)


async def exposed(ping_redis: Callable[[], Awaitable[bool]]) -> Response[bytes]:
    """Return every metric, after a look at Redis: that it is away must show although nobody needs it now."""
    await ping_redis()
    return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE_LATEST)
