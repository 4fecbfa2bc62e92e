"""The worker's own small door: health and metrics."""

from collections.abc import Callable

from litestar import Litestar, Response, get
from msgspec import Struct

from service.api.health import Live, exposed
from service.api.readiness import Readiness, Ready


class WorkerHealth(Struct, frozen=True, kw_only=True):
    """What the worker's health is asked from."""

    readiness: Readiness
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
        return await health.readiness.look(is_stopping=health.is_stopping())

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        """Return every metric of this process."""
        return await exposed(health.readiness.ping_redis)

    return Litestar([live, ready, metrics], openapi_config=None, logging_config=None)
