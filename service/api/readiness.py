"""Whether a process can serve, and what is away."""

from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from litestar import Response
from msgspec import UNSET, Struct, UnsetType

from service.domain.clock import CheckedClock
from service.domain.errors import StoreUnavailable
from service.store.encryption import MissingKeyError, SealError

log = structlog.get_logger()


class Ready(Struct, frozen=True):
    """Whether requests can be served. Redis may be away: then nudges wait for the sweep."""

    status: Literal["ready", "not ready"]
    database: str
    redis: str
    clock: str | UnsetType = UNSET  # only when the process's own is off


class Readiness:
    """Decides whether requests can be served; `was_reached`: whether the database ever was.

    A process that never reached it may be set up wrongly: traffic goes elsewhere. Afterwards an outage of
    the database is everybody's, and a pod that calls itself unready turns it into the ingress's own error
    pages, where our answer is a 503 that says when to come again.
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

    async def look(self, *, is_stopping: bool) -> Response[Ready]:
        """Ask the database and Redis, never the vendor: its outage must not take us out of service.

        Neither must a wrong clock, which is corrected, nor a database that takes no writes: it can still be
        read. What is away is named.
        """
        has_keys = True
        try:
            database = await self._ping_database()
        except StoreUnavailable as error:
            database = error.detail
        except MissingKeyError as error:
            # Other processes have the key that this one lacks.
            log.error("encryption_key_missing", key_ids=error.key_ids)
            database, has_keys = str(error), False
        except SealError as error:
            database, has_keys = str(error), False
        redis = "ok" if await self.ping_redis() else "unreachable"
        can_serve = self._was_reached() and has_keys and not is_stopping
        offset = abs(self._clock.offset_seconds)
        off = f"off by {offset:.0f} s: the corrected time is used" if self._clock.is_off else UNSET
        ready = Ready("ready" if can_serve else "not ready", database, redis, off)
        return Response(ready, status_code=200 if can_serve else 503)
