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

from service.api.request_kinds import REQUEST_KIND
from service.api.services import Services
from service.domain.errors import StoreUnavailable
from service.metrics import exposition
from service.parting import is_parting
from service.store.sealing import SealError


class Live(Struct, frozen=True):
    """The process runs."""

    status: Literal["alive", "stuck"]


class Ready(Struct, frozen=True):
    """Whether requests can be served. Redis may be away: then nudges wait for the sweep."""

    status: Literal["ready", "not ready"]
    database: str
    redis: str


async def readiness(
    ping_database: Callable[[], Awaitable[str]],
    ping_redis: Callable[[], Awaitable[bool]],
    *,
    is_stopping: bool,
) -> Response[Ready]:
    """Ask the database and Redis, never the vendor: its outage must not take us out of service.

    A database that takes no writes is named, and the process stays in service: it can still be read, and
    whoever writes is told 503 with the reason and not an ingress's own error page.
    """
    can_read = False
    try:
        database = await ping_database()
        can_read = True
    except StoreUnavailable as error:
        database = error.detail
    except SealError as error:
        database = str(error)
    redis = "ok" if await ping_redis() else "unreachable"
    can_serve = can_read and not is_stopping
    ready = Ready("ready" if can_serve else "not ready", database, redis)
    return Response(ready, status_code=200 if can_serve else 503)


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
    return await readiness(services.ping_database, services.ping_redis, is_stopping=is_parting(request.scope))


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
    return await exposed(services.ping_redis)


async def exposed(ping_redis: Callable[[], Awaitable[bool]]) -> Response[bytes]:
    """Return every metric, after a look at Redis: that it is away must show although nobody needs it now."""
    await ping_redis()
    return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE_LATEST)
