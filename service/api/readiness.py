"""Decides the answer of /health/ready: whether a process is ready, and which dependencies are not available.

The routes and /health/live are in health.py; the worker's own liveness is decided in service/jobs/sweep.py.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from litestar import Response
from msgspec import UNSET, Struct, UnsetType

from service.domain.clock import CheckedClock
from service.domain.errors import StoreUnavailable
from service.store.encryption import DecryptionError, MissingKeyError

log = structlog.get_logger()


class Ready(Struct, frozen=True):
    """The body of /health/ready. Without Redis a process stays ready: the sweep replaces lost wake-ups."""

    status: Literal["ready", "not ready"]
    database: str
    redis: str
    clock: str | UnsetType = UNSET  # only if the process's own clock is wrong


class Readiness:
    """Decides readiness. `was_reached` returns whether this process has ever reached the database.

    A process that has never reached it may be misconfigured, so it is not ready and other pods get its
    traffic. Later, an outage of the database affects all pods alike: if they all became unready, clients
    would get error pages of the ingress instead of our 503 with Retry-After.
    """

    def __init__(
        self,
        *,
        ping_database: Callable[[], Awaitable[str]],
        ping_redis: Callable[[], Awaitable[bool]],
        clock: CheckedClock,
        was_reached: Callable[[], bool],
    ) -> None:
        self._ping_database = ping_database
        self.ping_redis = ping_redis
        self._clock = clock
        self._was_reached = was_reached

    async def respond(self, *, is_stopping: bool) -> Response[Ready]:
        """Check database and Redis, and answer with the dependencies that are not available.

        EkaScribe is not checked, because its outage must not stop the service. A wrong clock does not matter
        either, because it is corrected, nor a read-only database, because it can still answer reads.
        """
        has_keys = True
        try:
            database = await self._ping_database()
        except StoreUnavailable as error:
            database = error.detail
        except MissingKeyError as error:
            # Another process may have the encryption key that this one lacks, so traffic should go there.
            log.error("encryption_key_missing", key_ids=error.key_ids)
            database, has_keys = str(error), False
        except DecryptionError as error:
            database, has_keys = str(error), False
        redis = "ok" if await self.ping_redis() else "unreachable"
        can_serve = self._was_reached() and has_keys and not is_stopping
        offset = abs(self._clock.offset_seconds)
        off = f"off by {offset:.0f} s: the corrected time is used" if self._clock.is_off else UNSET
        ready = Ready("ready" if can_serve else "not ready", database, redis, off)
        return Response(ready, status_code=200 if can_serve else 503)
