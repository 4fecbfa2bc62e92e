"""The worker process: fetches results, forwards documents, sweeps; woken by arq, driven by the rows."""

import asyncio
import contextlib
import socket
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog
import uvicorn
from arq.worker import Worker
from redis.exceptions import RedisError

from service.api.worker_health import WorkerHealth, create_worker_app
from service.clock import SystemClock
from service.domain.breaker import Breaker
from service.domain.errors import StoreUnavailable
from service.domain.fetching import Fetching
from service.domain.fhir import FhirSystems
from service.domain.forwarding import Forwarding
from service.domain.ids import UNFILTERED, SessionId
from service.domain.records import DeliveryJob, FetchJob, OwedCall
from service.domain.sessions import OWED_LEASE_SECONDS
from service.forwarding.guard import GuardedBackend
from service.forwarding.sender import HttpSender
from service.jobs.lanes import Lane
from service.jobs.ledger_watch import LedgerWatch
from service.jobs.nudges import (
    QUEUE,
    RESULTS_DUE,
    close_redis,
    decode,
    encode,
    open_redis,
    ping_redis,
)
from service.jobs.retention import Retention
from service.jobs.sweep import Sweep, pause
from service.logs import failure
from service.serving import on_stop_signal
from service.settings import Settings
from service.wiring import make_accounts, make_session_life, open_rows, open_vendor, ping_store

log = structlog.get_logger()

_FETCHES_AT_ONCE = 64
_DELIVERIES_AT_ONCE = 128
_OWED_AT_ONCE = 8
# How often arq looks for nudges: 12 ms at the median, under 3 % of an idle core (pitfalls, arq).
_POLL_SECONDS = 0.02
_NUDGES_AT_ONCE = 100
_NUDGE_SECONDS = 20
_RECONNECT_SECONDS = 1.0
_DRAIN_SECONDS = 20.0
_CANCEL_SECONDS = 0.5
_CANCELS = 6


async def run_worker(settings: Settings, listening: socket.socket) -> None:
    """Run a worker until SIGTERM or SIGINT; `listening` is where its health is asked."""
    stopping = asyncio.Event()
    on_stop_signal(stopping.set)
    await WorkerProcess(settings, listening=listening, stopping=stopping).run()


class WorkerProcess:
    """Everything that one worker runs."""

    def __init__(self, settings: Settings, *, listening: socket.socket, stopping: asyncio.Event) -> None:
        self._settings = settings
        self._listening = listening
        self._stopping = stopping

    async def run(self) -> None:
        """Run until told to stop; then finish what is in hand."""
        async with AsyncExitStack() as stack:
            await self._run(stack)
        log.info("worker_stopped")

    async def _run(self, stack: AsyncExitStack) -> None:
        settings, clock = self._settings, SystemClock()
        rows = await stack.enter_async_context(open_rows(settings))
        vendor = await stack.enter_async_context(open_vendor(settings, rows, make_accounts(settings, rows)))
        sender = HttpSender(
            backend=GuardedBackend(allow_private=settings.allow_private_destinations),
            clock=clock,
            timeout_seconds=settings.forward_timeout_seconds,
            public_url=settings.public_url or "",
            systems=FhirSystems(
                patient=settings.fhir_patient_system, encounter=settings.fhir_encounter_system
            ),
        )
        stack.push_async_callback(sender.close)
        fetching = Fetching(store=rows.results, vendor=vendor, clock=clock)
        forwarding = Forwarding(
            store=rows.deliveries,
            sender=sender,
            clock=clock,
            schedule_seconds=settings.forward_schedule_seconds,
            timeout_seconds=settings.forward_timeout_seconds,
            breaker=Breaker(
                store=rows.breaker, schedule_total_seconds=sum(settings.forward_schedule_seconds)
            ),
        )
        life = make_session_life(settings, rows, vendor)
        deliveries = Lane[DeliveryJob](
            "deliveries",
            size=_DELIVERIES_AT_ONCE,
            claim=forwarding.claim,
            run=forwarding.forward,
            next_slot_seconds=forwarding.next_slot_seconds,
        )

        async def fetch_and_follow(job: FetchJob) -> None:
            # What a fetch brought is sent on at once, without a detour through Redis.
            try:
                has_events = await fetching.fetch(job)
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - a process boundary: what nobody foresaw must not repeat for ever
                log.error("fetch_crashed", session_id=job.session_id, **failure(error))
                has_events = await fetching.crashed(job)
            if has_events:
                await deliveries.poke(job.session_id)
            if job.template_id != UNFILTERED:
                await fetches.poke(job.session_id)

        fetches = Lane[FetchJob]("fetches", size=_FETCHES_AT_ONCE, claim=fetching.claim, run=fetch_and_follow)

        async def claim_owed(_: SessionId | None, limit: int) -> list[OwedCall]:
            return await rows.sessions.claim_owed(limit, OWED_LEASE_SECONDS)

        owed = Lane[OwedCall]("owed", size=_OWED_AT_ONCE, claim=claim_owed, run=life.pay)
        sweep = Sweep(
            leases=rows.leases,
            idempotency=rows.idempotency,
            fetching=fetching,
            fetches=fetches,
            deliveries=deliveries,
            owed=owed,
            retention=Retention(rows.retention),
            interval_seconds=settings.sweep_interval_seconds,
        )
        redis = open_redis(settings.redis_url)
        stack.push_async_callback(close_redis, redis)
        health = WorkerHealth(
            ping_database=partial(ping_store, rows),
            ping_redis=partial(ping_redis, redis),
            is_alive=lambda: _is_alive(sweep),
        )
        watch = LedgerWatch(leases=rows.leases, ledger=rows.ledger)
        await self._work(health, sweep, fetches, watch)
        await asyncio.gather(*(lane.drain(_DRAIN_SECONDS) for lane in (fetches, deliveries, owed)))

    async def _work(
        self, health: WorkerHealth, sweep: Sweep, fetches: Lane[FetchJob], watch: LedgerWatch
    ) -> None:
        server = _health_server(health)
        serving = asyncio.create_task(server.serve(sockets=[self._listening]))
        log.info("worker_started", port=self._listening.getsockname()[1])
        tasks = [
            asyncio.create_task(sweep.run(self._stopping)),
            asyncio.create_task(self._listen(fetches)),
            asyncio.create_task(watch.run(self._stopping)),
        ]
        await asyncio.gather(*tasks)
        server.should_exit = True
        await serving

    async def _listen(self, fetches: Lane[FetchJob]) -> None:
        """Listen for nudges; a Redis that is away, or hangs, is waited for while the sweep goes on."""

        async def results_due(_: dict[str, Any], session_id: str) -> None:
            await fetches.poke(SessionId(session_id))

        results_due.__qualname__ = RESULTS_DUE
        while not self._stopping.is_set():
            redis = open_redis(self._settings.redis_url)
            worker = _arq(redis, [results_due])
            listening = asyncio.create_task(worker.async_run())
            stop = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait([listening, stop], return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            await _end(listening)
            if worker.tasks:
                # Its jobs outlive its loop; short as they are, they end before their connections do.
                await asyncio.wait(worker.tasks.values(), timeout=_CANCEL_SECONDS)
            await close_redis(redis)
            if listening in done:
                await self._wait_for_redis(listening.exception())

    async def _wait_for_redis(self, error: object) -> None:
        if isinstance(error, RedisError | OSError | TimeoutError):
            log.warning("redis_unreachable", error=type(error).__name__)
        elif isinstance(error, BaseException):
            log.error("listening_failed", **failure(error))
        await pause(self._stopping, _RECONNECT_SECONDS)


async def _end(listening: asyncio.Task[None]) -> None:
    """End arq's loop; the Redis client can swallow a cancellation at a bad moment, so it is repeated."""
    for _ in range(_CANCELS):
        listening.cancel()
        done, _ = await asyncio.wait([listening], timeout=_CANCEL_SECONDS)
        if done:
            return
    log.error("listening_would_not_stop")


def _arq(redis: Any, functions: list[Any]) -> Worker:
    return Worker(
        functions=functions,
        redis_pool=redis,
        queue_name=QUEUE,
        handle_signals=False,
        max_jobs=_NUDGES_AT_ONCE,
        job_timeout=_NUDGE_SECONDS,
        keep_result=0,
        max_tries=1,
        poll_delay=_POLL_SECONDS,
        health_check_interval=10,
        job_serializer=encode,
        job_deserializer=decode,
        log_results=False,
    )


def _is_alive(sweep: Sweep) -> bool:
    # The sweep beats every round, whatever happens to PostgreSQL or Redis; a minute of silence is a hang.
    return time.monotonic() - sweep.last_beat < 60.0 + sweep.interval_seconds


def _health_server(health: WorkerHealth) -> uvicorn.Server:
    config = uvicorn.Config(
        create_worker_app(health), log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    # Signals are the worker's: the server must not take them from it.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server
