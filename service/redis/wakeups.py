"""arq as the nudge: "look at session X now", from any process to some worker.

A nudge carries a session's id and nothing else, or not even that; it may be lost, doubled or late, and is
never waited for: the rows say what is due, and the sweep reads them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from service.concurrency.lazy_imports import Late
from service.domain.ids import SessionId
from service.redis.sentinel_url import SENTINEL_SCHEMES, SentinelAddress, parse_sentinel

if TYPE_CHECKING:
    from arq.connections import ArqRedis
    from redis.asyncio import Redis
    from redis.asyncio.sentinel import SentinelConnectionPool

log = structlog.get_logger()

# What `open_redis` loads.
LIBRARIES = ("arq.connections", "redis.asyncio.sentinel")

UP = Gauge(
    "ekabridge_redis_up",
    "Whether Redis answered when it was last asked: at each look at the metrics and at readiness.",
    multiprocess_mode="livemostrecent",
)
DROPPED = Counter("ekabridge_nudges_dropped", "Nudges that Redis did not take; the sweep finds what is due.")

QUEUE = "ekabridge:nudges"
RESULTS_DUE = "results_due"

_SOCKET_SECONDS = 2.0
_ENQUEUE_SECONDS = 1.0
# In place of a session's id: whatever is due.
ANY = ""
_ENOUGH = 2
# Workers look for nudges as often: more of them would be for nothing.
_PAUSE_SECONDS = 0.02
# A nudge that is older than this was overtaken by the sweep long ago.
_EXPIRES_MS = 60_000


def encode(job: dict[str, Any]) -> bytes:
    """Write a job; never pickle, which runs what it reads."""
    return msgspec.msgpack.encode(job, enc_hook=lambda value: type(value).__name__)


def decode(job: bytes) -> dict[str, Any]:
    """Read a job."""
    return msgspec.msgpack.decode(job, type=dict[str, Any])


def redis_errors() -> tuple[type[Exception], ...]:
    """Return what is raised where Redis, or the way to it, fails: an `except` asks only when it must."""
    from redis.exceptions import RedisError  # noqa: PLC0415 - as below

    return RedisError, OSError, TimeoutError


def open_redis(url: str) -> "ArqRedis":
    """Make a client that connects at its first use and never waits long (docs/libraries.md#redis-hangs)."""
    from arq.connections import ArqRedis  # noqa: PLC0415 - a tenth of a start, and not needed to answer
    from redis.asyncio import ConnectionPool  # noqa: PLC0415

    bounds: dict[str, Any] = {
        "max_connections": 32,
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "health_check_interval": 15,
    }
    return ArqRedis(
        _sentinel_pool(parse_sentinel(url), bounds)
        if url.startswith(SENTINEL_SCHEMES)
        else ConnectionPool.from_url(url, **bounds),
        job_serializer=encode,
        job_deserializer=decode,
        default_queue_name=QUEUE,
        expires_extra_ms=_EXPIRES_MS,
    )


def _sentinel_pool(address: SentinelAddress, bounds: dict[str, Any]) -> "SentinelConnectionPool":
    """Make a pool whose every new connection asks the sentinels who the master is now."""
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool  # noqa: PLC0415

    tls = {"ssl": True, "ssl_ca_certs": address.ca_file} if address.tls else {}
    sentinel_login = {"username": address.sentinel_username, "password": address.sentinel_password}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        address.sentinels,
        sentinel_kwargs=sentinel_login
        | tls
        | {"socket_timeout": _SOCKET_SECONDS, "socket_connect_timeout": _SOCKET_SECONDS},
    )
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master,
        sentinels,
        db=address.database,
        username=address.username,
        password=address.password,
        **tls,
        **bounds,
    )


async def close_redis(redis: "Redis") -> None:
    """Close the client and the pool that was made for it, which it would otherwise leave open."""
    from redis.asyncio.sentinel import SentinelConnectionPool  # noqa: PLC0415

    pool = redis.connection_pool
    with contextlib.suppress(*redis_errors()):
        async with asyncio.timeout(_SOCKET_SECONDS):
            await redis.aclose(close_connection_pool=True)
            if isinstance(pool, SentinelConnectionPool):
                for sentinel in pool.sentinel_manager.sentinels:
                    await sentinel.aclose()


async def ping_redis(redis: "ArqRedis") -> bool:
    """Return whether Redis answers, within a second."""
    try:
        async with asyncio.timeout(1.0):
            await redis.ping()
    except redis_errors():
        UP.set(0)
        return False
    UP.set(1)
    return True


class LateRedis:
    """A client that is made when it is first needed, by when its libraries are here."""

    def __init__(self, make: "Callable[[], ArqRedis]", loaded: Callable[[], Awaitable[None]]) -> None:
        """Take what makes it, and what to wait for before that."""
        self._client = Late(make, loaded)

    async def client(self) -> "ArqRedis":
        """Return it. Raises what made its libraries fail."""
        return await self._client.get()

    async def ping(self) -> bool:
        """Return whether Redis answers, within a second of being asked."""
        return await ping_redis(await self.client())

    async def close(self) -> None:
        """Close it, if it was made."""
        if self._client.made is not None:
            await close_redis(self._client.made)


class ArqWakeups:
    """The domain's Nudges: sent by one task, dropped when Redis cannot take them.

    When several are to be sent, one that names no session stands for all of them: a worker then looks at
    whatever is due. So a flood of webhooks costs Redis, the workers and us no more than a few calls.
    """

    def __init__(self, redis: LateRedis) -> None:
        self._redis = redis
        self._due: set[SessionId] = set()
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def results_due(self, session_id: SessionId) -> None:
        """Results of this session can be fetched."""
        if len(self._due) < _ENOUGH:
            self._due.add(session_id)
        self._is_due.set()

    async def start(self) -> None:
        """Start sending."""
        self._task = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """Stop; what was not sent is found by the sweep."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_ENQUEUE_SECONDS)
        await self._redis.close()

    async def _send_all(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            due, self._due = self._due, set()
            try:
                redis = await self._redis.client()
                async with asyncio.timeout(_ENQUEUE_SECONDS):
                    await redis.enqueue_job(RESULTS_DUE, due.pop() if len(due) == 1 else ANY)
            except Exception as error:  # noqa: BLE001 - a nudge may be lost, its sender may not
                DROPPED.inc()
                log.warning("nudge_dropped", reason=type(error).__name__)
            if len(due) > 1:
                await asyncio.sleep(_PAUSE_SECONDS)
