"""The worker process: fetches results, forwards documents, sweeps; woken by arq, driven by the rows."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from service.api.health import WorkerHealth, create_worker_app
from service.api.readiness import Readiness
from service.bootstrap.container import (
    make_accounts,
    make_session_lifecycle,
    open_stores,
    open_vendor,
    ping_store,
)
from service.domain.body_budget import BodyBudget
from service.domain.clock import CheckedClock
from service.domain.deliveries.attempts import DeliveryForwarder
from service.domain.deliveries.circuit_breaker import CircuitBreaker
from service.domain.errors import StoreUnavailable
from service.domain.ids import UNFILTERED, Account, SessionId
from service.domain.models import DeliveryJob, FetchJob, PendingCall
from service.domain.results.fetching import ResultFetcher
from service.domain.sessions.lifecycle import PENDING_CALL_LEASE_SECONDS
from service.forwarding.fhir import FhirSystems
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import GuardedBackend
from service.forwarding.timeout_policy import silent_holders, silent_holders_of_tenant
from service.http_server import drain_seconds, on_stop_signal, serving_health
from service.jobs.instrumentation import count_fetch, traced_call, traced_delivery, traced_fetch
from service.jobs.job_pool import HolderQuota, JobPool
from service.jobs.listener import WakeupListener
from service.jobs.monitors.clock import ClockMonitor
from service.jobs.monitors.ledger import LedgerMonitor
from service.jobs.monitors.queues import QueueMonitor
from service.jobs.reencryption import Reencryption
from service.jobs.retention import Retention
from service.jobs.sweep import Sweep
from service.observability.logging import failure
from service.observability.metrics import tell_build
from service.observability.tracing import start_tracing, stop_tracing
from service.redis.client import close_redis, open_redis, ping_redis
from service.settings import Settings

log = structlog.get_logger()

_DELIVERIES_AT_ONCE = 256
# With what one claim takes, all destinations whose last call hung come to have half of the places at most.
_DELIVERIES_OF_A_TENANT = 128
_SILENT_DELIVERIES = 96
_SILENT_OF_A_TENANT = 32
_DELIVERIES_AT_A_TIME = 32
_MAX_PENDING_CALLS = 24
_MAX_PENDING_CALLS_OF_ACCOUNT = 8
# What runs beside the lanes ends by itself soon after it was told to.
_ASIDE_SECONDS = 3.0


async def run_worker(settings: Settings, listening: socket.socket) -> None:
    """Run a worker until SIGTERM or SIGINT; `listening` is where its health is asked."""
    stopping = asyncio.Event()
    tell_build("worker")
    start_tracing("worker")
    on_stop_signal(stopping.set, seconds=settings.shutdown_seconds)
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
        await asyncio.to_thread(stop_tracing)
        log.info("worker_stopped")

    async def _run(self, stack: AsyncExitStack) -> None:
        settings, clock = self._settings, CheckedClock()
        rows = await stack.enter_async_context(open_stores(settings))
        vendor = await stack.enter_async_context(
            open_vendor(settings, rows, make_accounts(settings, rows), clock=clock)
        )
        sender = HttpSender(
            backend=GuardedBackend(allow_private=settings.allow_private_destinations),
            clock=clock,
            timeout_seconds=settings.forward_timeout_seconds,
            max_silent=_DELIVERIES_AT_ONCE // 2,
            public_url=settings.public_url or "",
            systems=FhirSystems(
                patient=settings.fhir_patient_system, encounter=settings.fhir_encounter_system
            ),
        )
        stack.push_async_callback(sender.close)
        fetching = ResultFetcher(store=rows.results, vendor=vendor, clock=clock, count=count_fetch)
        forwarding = DeliveryForwarder(
            store=rows.deliveries,
            sender=sender,
            clock=clock,
            schedule_seconds=settings.forward_schedule_seconds,
            timeout_seconds=settings.forward_timeout_seconds,
            bodies=BodyBudget(),
            is_clock_off=lambda: clock.is_off,
            breaker=CircuitBreaker(
                store=rows.breaker, schedule_total_seconds=sum(settings.forward_schedule_seconds)
            ),
        )
        life = make_session_lifecycle(settings, rows, vendor)
        clock_watch = ClockMonitor(clock, rows.database.clock)
        stack.push_async_callback(clock_watch.stop)

        async def claim_deliveries(session_id: SessionId | None, limit: int) -> list[DeliveryJob]:
            return await forwarding.claim(session_id, limit, deliveries.holders_at_quota())

        deliveries = JobPool[DeliveryJob](
            "deliveries",
            size=_DELIVERIES_AT_ONCE,
            claim=claim_deliveries,
            run=traced_delivery(forwarding.forward),
            next_slot_seconds=forwarding.next_slot_seconds,
            quotas=_delivery_quotas(),
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
                await deliveries.wake(job.session_id)
            if job.template_id != UNFILTERED:
                await fetches.wake(job.session_id)

        async def claim_fetches(session_id: SessionId | None, limit: int) -> list[FetchJob]:
            passed_over = {
                *vendor.call_limiters.held_back_accounts(),
                *map(Account, fetches.holders_at_quota()),
            }
            return await fetching.claim(session_id, limit, passed_over)

        places = settings.eka_max_concurrency
        fetches = JobPool[FetchJob](
            "fetches",
            size=2 * places,
            claim=claim_fetches,
            run=traced_fetch(fetch_and_follow),
            quotas=account_quotas(places),
        )

        async def claim_pending_calls(_: SessionId | None, limit: int) -> list[PendingCall]:
            passed_over = {
                *vendor.call_limiters.held_back_accounts(),
                *map(Account, pending_calls.holders_at_quota()),
            }
            return await rows.sessions.claim_pending_calls(limit, PENDING_CALL_LEASE_SECONDS, passed_over)

        pending_calls = JobPool[PendingCall](
            "owed",
            size=_MAX_PENDING_CALLS,
            claim=claim_pending_calls,
            run=traced_call(life.pay),
            quotas=account_quotas(_MAX_PENDING_CALLS_OF_ACCOUNT),
        )
        sweep = Sweep(
            leases=rows.leases,
            idempotency=rows.idempotency,
            fetching=fetching,
            fetches=fetches,
            deliveries=deliveries,
            pending_calls=pending_calls,
            retention=Retention(rows.retention),
            interval_seconds=settings.sweep_interval_seconds,
            check_keys=rows.keys.begin,
        )
        redis = open_redis(settings.redis_url)
        stack.push_async_callback(close_redis, redis)
        health = WorkerHealth(
            readiness=Readiness(
                ping_database=partial(ping_store, rows),
                ping_redis=partial(ping_redis, redis),
                clock=clock,
                was_reached=lambda: rows.database.was_reached,
            ),
            is_alive=lambda: _is_alive(sweep),
            is_stopping=self._stopping.is_set,
        )
        watch = LedgerMonitor(leases=rows.leases, ledger=rows.ledger)
        queues = QueueMonitor(leases=rows.leases, queues=rows.queues)
        reencryption = Reencryption(
            leases=rows.leases, keys=rows.keys, reencryption=rows.reencryption, keyring=rows.keyring
        )
        await clock_watch.start()
        await stack.enter_async_context(serving_health(create_worker_app(health), self._listening))
        log.info("worker_started", port=self._listening.getsockname()[1])
        await self._work(
            [
                sweep.run(self._stopping),
                WakeupListener(settings.redis_url, fetches.wake).run(self._stopping),
                watch.run(self._stopping),
                queues.run(self._stopping),
                reencryption.run(self._stopping),
            ],
            [fetches, deliveries, pending_calls],
        )

    async def _work(self, aside: list[Coroutine[Any, Any, None]], lanes: list[JobPool[Any]]) -> None:
        """Run what finds work until told to stop; then let the lanes finish what they hold, and no more."""
        tasks = [asyncio.create_task(each) for each in aside]
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        for lane in lanes:
            lane.close()
        if self._stopping.is_set():
            seconds = drain_seconds(self._settings.shutdown_seconds)
            await asyncio.gather(*(lane.drain(seconds) for lane in lanes))
            await asyncio.wait(tasks, timeout=_ASIDE_SECONDS)
        for task in (*tasks, stop):
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


def account_quotas(places: int) -> list[HolderQuota[Any]]:
    """Return what one account of EkaScribe may hold, and what one tenant on an account that many share."""

    def tenant_of(job: FetchJob | PendingCall) -> str | None:
        return None if job.account == Account(job.tenant_id) else f"tenant:{job.tenant_id}"

    return [
        HolderQuota(holder_of=lambda job: job.account, max_jobs=places, at_a_time=max(1, places // 2)),
        # One claim may go past the share: a tenant holds less than 7/8 of the places.
        HolderQuota(holder_of=tenant_of, max_jobs=max(1, places * 3 // 8), at_a_time=max(1, places // 2)),
    ]


def _delivery_quotas() -> list[HolderQuota[DeliveryJob]]:
    """Return what one tenant, all silent destinations, and one tenant's silent destinations may hold."""
    limits: list[tuple[Callable[[DeliveryJob], str | None], int]] = [
        (lambda job: job.tenant_id, _DELIVERIES_OF_A_TENANT),
        (silent_holders, _SILENT_DELIVERIES),
        (silent_holders_of_tenant, _SILENT_OF_A_TENANT),
    ]
    return [
        HolderQuota(holder_of=holder_of, max_jobs=places, at_a_time=_DELIVERIES_AT_A_TIME)
        for holder_of, places in limits
    ]


def _is_alive(sweep: Sweep) -> bool:
    # The sweep beats every round, whatever happens to PostgreSQL or Redis; a minute of silence is a hang.
    return time.monotonic() - sweep.last_beat < 60.0 + sweep.interval_seconds
