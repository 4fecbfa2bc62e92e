"""The worker process: fetches results, forwards documents, makes pending calls, and sweeps."""

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from service.api.health import WorkerHealth, create_worker_app
from service.api.readiness import Readiness
from service.bootstrap.container import (
    Stores,
    make_accounts,
    make_pending_calls,
    open_stores,
    open_vendor,
    ping_store,
)
from service.domain.body_budget import BodyBudget
from service.domain.clock import CheckedClock
from service.domain.deliveries.attempts import DeliveryForwarder
from service.domain.deliveries.circuit_breaker import DestinationCircuitBreaker
from service.domain.results.fetching import ResultFetcher
from service.forwarding.fhir import FhirSystems
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import GuardedBackend
from service.http_server import drain_seconds, on_stop_signal, serving_health
from service.jobs.instrumentation import count_fetch
from service.jobs.job_pool import JobPool
from service.jobs.listener import WakeupListener
from service.jobs.monitors.clock import ClockMonitor
from service.jobs.monitors.ledger import LedgerMonitor
from service.jobs.monitors.queues import QueueMonitor
from service.jobs.pools import MAX_DELIVERIES, make_delivery_pool, make_fetch_pool, make_pending_call_pool
from service.jobs.reencryption import Reencryption
from service.jobs.retention import RetentionJob
from service.jobs.sweep import Sweep
from service.observability.metrics_exposition import tell_build
from service.observability.tracing import start_tracing, stop_tracing
from service.redis.client import close_redis, open_redis, ping_redis
from service.settings import Settings

log = structlog.get_logger()

# The background tasks end by themselves within this time after `stopping` was set.
_BACKGROUND_SECONDS = 3.0


async def run_worker(settings: Settings, listening: socket.socket) -> None:
    """Run a worker until SIGTERM or SIGINT; `listening` is the socket of its health and metrics."""
    stopping = asyncio.Event()
    tell_build("worker")
    start_tracing("worker")
    on_stop_signal(stopping.set, seconds=settings.shutdown_seconds)
    await WorkerProcess(settings, listening=listening, stopping=stopping).run()


class WorkerProcess:
    """One worker: builds its parts, runs them, and drains them at the end."""

    def __init__(self, settings: Settings, *, listening: socket.socket, stopping: asyncio.Event) -> None:
        self._settings = settings
        self._listening = listening
        self._stopping = stopping

    async def run(self) -> None:
        """Run until `stopping` is set; then finish running jobs."""
        async with AsyncExitStack() as stack:
            await self._run(stack)
        await asyncio.to_thread(stop_tracing)
        log.info("worker_stopped")

    async def _run(self, stack: AsyncExitStack) -> None:
        settings, clock = self._settings, CheckedClock()
        stores = await stack.enter_async_context(open_stores(settings))
        vendor = await stack.enter_async_context(
            open_vendor(settings, stores, make_accounts(settings, stores), clock=clock)
        )
        sender = _make_sender(settings, clock)
        stack.push_async_callback(sender.close)
        redis = open_redis(settings.redis_url)
        stack.push_async_callback(close_redis, redis)
        clock_monitor = ClockMonitor(clock, stores.database.clock)
        stack.push_async_callback(clock_monitor.stop)

        fetcher = ResultFetcher(store=stores.results, vendor=vendor, clock=clock, count=count_fetch)
        deliveries = make_delivery_pool(_make_forwarder(settings, stores, sender, clock))
        fetches = make_fetch_pool(fetcher, vendor, deliveries, max_concurrency=settings.eka_max_concurrency)
        pending_calls = make_pending_call_pool(
            make_pending_calls(settings, stores, vendor, fetcher), vendor, stores.sessions
        )
        sweep = Sweep(
            leases=stores.leases,
            idempotency=stores.idempotency,
            fetching=fetcher,
            fetches=fetches,
            deliveries=deliveries,
            pending_calls=pending_calls,
            retention=RetentionJob(stores.retention),
            interval_seconds=settings.sweep_interval_seconds,
            check_keys=stores.encryption_keys.begin,
        )
        health = WorkerHealth(
            readiness=Readiness(
                ping_database=partial(ping_store, stores),
                ping_redis=partial(ping_redis, redis),
                clock=clock,
                was_reached=lambda: stores.database.was_reached,
            ),
            is_alive=sweep.is_alive,
            is_stopping=self._stopping.is_set,
        )
        await clock_monitor.start()
        await stack.enter_async_context(serving_health(create_worker_app(health), self._listening))
        log.info("worker_started", port=self._listening.getsockname()[1])
        background = (
            sweep,
            WakeupListener(settings.redis_url, fetches.wake),
            LedgerMonitor(leases=stores.leases, ledger=stores.ledger),
            QueueMonitor(leases=stores.leases, queues=stores.queue_depths),
            Reencryption(
                leases=stores.leases,
                keys=stores.encryption_keys,
                reencryption=stores.reencryption,
                keyring=stores.keyring,
            ),
        )
        await self._work(
            [each.run(self._stopping) for each in background], [fetches, deliveries, pending_calls]
        )

    async def _work(self, background: list[Coroutine[Any, Any, None]], pools: list[JobPool[Any]]) -> None:
        """Run until `stopping` is set or a task fails; then drain the pools: running jobs end."""
        tasks = [asyncio.create_task(each) for each in background]
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        for pool in pools:
            pool.close()
        if self._stopping.is_set():
            seconds = drain_seconds(self._settings.shutdown_seconds)
            await asyncio.gather(*(pool.drain(seconds) for pool in pools))
            await asyncio.wait(tasks, timeout=_BACKGROUND_SECONDS)
        for task in (*tasks, stop):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


def _make_sender(settings: Settings, clock: CheckedClock) -> HttpSender:
    return HttpSender(
        backend=GuardedBackend(allow_private=settings.allow_private_destinations),
        clock=clock,
        timeout_seconds=settings.forward_timeout_seconds,
        max_silent=MAX_DELIVERIES // 2,
        public_url=settings.public_url or "",
        systems=FhirSystems(patient=settings.fhir_patient_system, encounter=settings.fhir_encounter_system),
    )


def _make_forwarder(
    settings: Settings, stores: Stores, sender: HttpSender, clock: CheckedClock
) -> DeliveryForwarder:
    schedule = settings.forward_schedule_seconds
    return DeliveryForwarder(
        store=stores.deliveries,
        sender=sender,
        clock=clock,
        schedule_seconds=schedule,
        timeout_seconds=settings.forward_timeout_seconds,
        bodies=BodyBudget(),
        is_clock_off=lambda: clock.is_off,
        breaker=DestinationCircuitBreaker(
            store=stores.circuit_breakers, schedule_total_seconds=sum(schedule)
        ),
    )
