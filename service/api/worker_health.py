"""The worker's own small door: health and metrics."""

from collections.abc import Awaitable, Callable

from litestar import Litestar, Response, get
from msgspec import Struct

from service.api.health import Live, Ready, exposed, readiness


class WorkerHealth(Struct, frozen=True, kw_only=True):
    """What the worker's health is asked from."""

    ping_database: Callable[[], Awaitable[str]]
    ping_redis: Callable[[], Awaitable[bool]]
    is_alive: Callable[[], bool]
    is_stopping: Callable[[], bool]


def create_worker_app(health: WorkerHealth) -> Litestar:
    """Make the application behind the worker's port."""

    @get("/health/live")
    async def live() -> Response[Live]:
        """Say whether the sweep still beats: a hung event loop would not even answer."""
        alive = health.is_alive()
        return Response(Live("alive" if alive else "stuck"), status_code=200 if alive else 503)

    @get("/health/ready")
    async def ready() -> Response[Ready]:
        """Ask the database and Redis; a process that is to stop is not ready."""
        return await readiness(health.ping_database, health.ping_redis, is_stopping=health.is_stopping())

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        """Return every metric of this process."""
        return await exposed(health.ping_redis)

    return Litestar([live, ready, metrics], openapi_config=None, logging_config=None)
