"""Health, metrics: what an operator's tools ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from msgspec import UNSET, Struct, UnsetType
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.services import Services
from service.clock import CheckedClock
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
    clock: str | UnsetType = UNSET  # only when the process's own is off


async def readiness(
    ping_database: Callable[[], Awaitable[None]],
    ping_redis: Callable[[], Awaitable[bool]],
    *,
    clock: CheckedClock,
    is_stopping: bool,
) -> Response[Ready]:
    """Ask the database and Redis, never the vendor: its outage must not take us out of service.

    Neither must a wrong clock, which is corrected; whoever asks is told.
    """
    database = "ok"
    try:
        await ping_database()
    except StoreUnavailable as error:
        database = error.detail
    except SealError as error:
        database = str(error)
    redis = "ok" if await ping_redis() else "unreachable"
    can_serve = database == "ok" and not is_stopping
    off = f"off by {abs(clock.offset_seconds):.0f} s: the corrected time is used" if clock.is_off else UNSET
    ready = Ready("ready" if can_serve else "not ready", database, redis, off)
    return Response(ready, status_code=200 if can_serve else 503)


@get("/health/live", operation_id="live", summary="Is the process alive", tags=["Operators"])
async def live() -> Live:
    """Answer without asking anybody."""
    return Live("alive")


@get(
    "/health/ready",
    operation_id="ready",
    summary="Can it serve",
    tags=["Operators"],
    responses={503: ResponseSpec(Ready, description="It cannot", generate_examples=False)},
)
async def ready(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Ready]:
    """Ask the database and Redis; a process that is to stop is not ready."""
    return await readiness(
        services.ping_database,
        services.ping_redis,
        clock=services.clock,
        is_stopping=is_parting(request.scope),
    )


@get(
    "/metrics",
    operation_id="metrics",
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
