"""Listens for wake-ups with arq and wakes the job pool; the sweep does the same work without it, later."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func

from service.domain.ids import SessionId
from service.jobs.sweep import pause
from service.observability.logging import describe_failure
from service.redis.client import QUEUE, REDIS_ERRORS, close_redis, decode, encode, open_redis
from service.redis.wakeups import ANY, RESULTS_DUE

log = structlog.get_logger()

# arq reads its queue this often: 12 ms to a wake-up at the median, under 3 % of an idle core
# (docs/libraries.md#arq-poll).
_POLL_SECONDS = 0.02
_MAX_JOBS = 100
_JOB_SECONDS = 20
_HEALTH_SECONDS = 10
_RECONNECT_SECONDS = 1.0
_CANCEL_SECONDS = 0.5
_MAX_CANCELS = 6


class WakeupListener:
    """Calls `wake` for each wake-up: with the session that it names, or with None for every due session."""

    def __init__(self, redis_url: str, wake: Callable[[SessionId | None], Awaitable[None]]) -> None:
        """Listen at this Redis, with connections of its own."""
        self._redis_url = redis_url
        self._wake = wake

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until told to stop; connect anew, after a second, when Redis fails or hangs."""
        while not stopping.is_set():
            redis = open_redis(self._redis_url)
            worker = self._arq_worker(redis)
            listening = asyncio.create_task(worker.async_run())
            stop = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait([listening, stop], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            await _cancel(listening)
            if worker.tasks:
                # arq's jobs outlive its loop. They are short, and need the connections that are closed next.
                await asyncio.wait(worker.tasks.values(), timeout=_CANCEL_SECONDS)
            await close_redis(redis)
            if listening in done:
                _log_failure(listening.exception())
                await pause(stopping, _RECONNECT_SECONDS)

    async def _results_due(self, _: dict[str, Any], session_id: str) -> None:
        await self._wake(None if session_id == ANY else SessionId(session_id))

    def _arq_worker(self, redis: ArqRedis) -> Worker:
        results_due: Any = self._results_due
        return Worker(
            functions=[func(results_due, name=RESULTS_DUE)],
            redis_pool=redis,
            queue_name=QUEUE,
            handle_signals=False,
            max_jobs=_MAX_JOBS,
            job_timeout=_JOB_SECONDS,
            keep_result=0,
            max_tries=1,
            poll_delay=_POLL_SECONDS,
            health_check_interval=_HEALTH_SECONDS,
            job_serializer=encode,
            job_deserializer=decode,
            log_results=False,
        )


def _log_failure(error: BaseException | None) -> None:
    if isinstance(error, REDIS_ERRORS):
        log.warning("redis_unreachable", error=type(error).__name__)
    elif error is not None:
        log.error("listening_failed", **describe_failure(error))


async def _cancel(listening: asyncio.Task[None]) -> None:
    """Cancel arq's loop; the Redis client can swallow a cancellation, so it is repeated."""
    for _ in range(_MAX_CANCELS):
        listening.cancel()
        done, _ = await asyncio.wait([listening], timeout=_CANCEL_SECONDS)
        if done:
            return
    log.error("listening_would_not_stop")
