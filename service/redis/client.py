"""The Redis client: how it is opened, asked whether it answers, and closed, with or without Sentinel.

A client connects at its first use. Every wait has a time-out, as a Redis that hangs closes no connection.
"""

import asyncio
import contextlib
from typing import Any

import msgspec
from arq.connections import ArqRedis
from prometheus_client import Gauge
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

from service.redis.sentinel_url import SENTINEL_SCHEMES, SentinelAddress, parse_sentinel

UP = Gauge(
    "ekabridge_redis_up",
    "Whether Redis answered when it was last asked: at each look at the metrics and at readiness.",
    multiprocess_mode="livemostrecent",
)

# These are raised when Redis, or the network to it, fails.
REDIS_ERRORS = (RedisError, OSError, TimeoutError)
QUEUE = "ekabridge:nudges"

_SOCKET_SECONDS = 2.0
_PING_SECONDS = 1.0
# The sweep has found the work of an older wake-up long ago.
_EXPIRES_MS = 60_000


def encode(job: dict[str, Any]) -> bytes:
    """Serialise a job without pickle, which would run code from Redis when it is read."""
    return msgspec.msgpack.encode(job, enc_hook=lambda value: type(value).__name__)


def decode(job: bytes) -> dict[str, Any]:
    """Deserialise a job that `encode` wrote."""
    return msgspec.msgpack.decode(job, type=dict[str, Any])


def open_redis(url: str) -> ArqRedis:
    """Return a client that connects at its first use and never waits long (docs/libraries.md#redis-hangs)."""
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


def _sentinel_pool(address: SentinelAddress, bounds: dict[str, Any]) -> SentinelConnectionPool:
    """Return a pool whose every new connection asks the sentinels which server is the master now."""
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


async def close_redis(redis: Redis) -> None:
    """Close the client, its pool, which the client would leave open, and the sentinels' connections."""
    pool = redis.connection_pool
    with contextlib.suppress(*REDIS_ERRORS):
        async with asyncio.timeout(_SOCKET_SECONDS):
            await redis.aclose(close_connection_pool=True)
            if isinstance(pool, SentinelConnectionPool):
                for sentinel in pool.sentinel_manager.sentinels:
                    await sentinel.aclose()


async def ping_redis(redis: Redis) -> bool:
    """Return whether Redis answers within a second, and record it as a metric."""
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await redis.ping()
    except REDIS_ERRORS:
        UP.set(0)
        return False
    UP.set(1)
    return True


async def server_info(redis: Redis) -> dict[str, object] | None:
    """Return the answer to INFO; None when the server refuses it, as some managed ones do."""
    try:
        return dict(await redis.info())
    except RedisError:
        return None
