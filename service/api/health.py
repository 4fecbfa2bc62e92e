"""Health, metrics: what an operator's tools ask."""

from collections.abc import Awaitable, Callable
from typing import Literal

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api.services import Services
from service.domain.errors import StoreUnavailable
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
    ping_database: Callable[[], Awaitable[None]], ping_redis: Callable[[], Awaitable[bool]]
) -> Response[Ready]:
    """Ask the database and Redis, never the vendor: its outage must not take us out of service."""
    database = "ok"
    try:
        await ping_database()
    except StoreUnavailable as error:
        database = error.detail
    except SealError:
        database = "its key is not among ENCRYPTION_KEYS"
    redis = "ok" if await ping_redis() else "unreachable"
    ready = Ready("ready" if database == "ok" else "not ready", database, redis)
    return Response(ready, status_code=200 if database == "ok" else 503)


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
async def ready(services: NamedDependency[Services]) -> Response[Ready]:
    """Ask the database and Redis."""
    return await readiness(services.ping_database, services.ping_redis)


@get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    tags=["Operators"],
    media_type=MediaType.TEXT,
)
async def metrics() -> Response[bytes]:
    """Return every metric of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
