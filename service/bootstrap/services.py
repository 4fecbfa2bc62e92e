"""Builds what the routes of a service process call, group by group, and closes it when the process ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from service.api.dependencies import (
    AccessServices,
    AudioServices,
    DeliveryServices,
    DestinationServices,
    MedscribeServices,
    OperationServices,
    Services,
    SessionServices,
    WebhookServices,
)
from service.api.middleware.response_memory import reserve_response
from service.api.middleware.session_trace import SessionTraces
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.rate_limit import count_handshake
from service.api.readiness import Readiness
from service.bootstrap.container import (
    Stores,
    make_accounts,
    make_destinations,
    make_session_lifecycle,
    open_discovery,
    open_stores,
    open_vendor,
    ping_store_for_requests,
)
from service.domain.api_keys.lookup import ApiKeyLookup
from service.domain.api_keys.revocation import RevocationPoller
from service.domain.audio.uploads import AudioUploads
from service.domain.clock import CheckedClock, SystemClock
from service.domain.deliveries.recovery import Deliveries
from service.domain.read_audit import ReadAudit
from service.domain.results.additional_document_requests import AdditionalDocumentRequests
from service.domain.results.refreshing import ResultRefresher
from service.domain.sessions.change_polling import ChangePoller
from service.domain.sessions.creation import SessionCreator
from service.domain.sessions.updates import SessionUpdates
from service.domain.streams.lifecycle import Streams
from service.domain.templates import Templates
from service.domain.token_bucket import LocalRateLimiter, RateLimitPolicy
from service.domain.webhooks import WebhookReceiver
from service.eka.client import EkaClient
from service.eka.discovery import Discovery
from service.eka.streams import EkaStreams
from service.eka.templates import EkaTemplates
from service.jobs.monitors.clock import ClockMonitor
from service.observability.tracing import stop_tracing
from service.redis.client import close_redis, open_redis, ping_redis
from service.redis.rate_limiter import open_rate_limiter
from service.redis.wakeups import ArqWakeups
from service.settings import Settings
from service.store.medscribe_queries import MedscribeQueries
from service.store.medscribe_tokens import MedscribeTokens
from service.store.session_queries import SessionQueries

# Failed logins of one client_id, in one process: ten at once, then ten a minute.
_LOGIN_FAILURES = RateLimitPolicy(per_second=10 / 60, burst=10)


@asynccontextmanager
async def open_services(
    settings: Settings, traces: SessionTraces, unauthenticated_limits: UnauthenticatedLimits
) -> AsyncIterator[Services]:
    """Open the store, the vendor's client and Redis; none of the three servers need be reachable yet."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, stop_tracing)
        redis = open_redis(settings.redis_url)
        stack.push_async_callback(close_redis, redis)
        rows = await stack.enter_async_context(open_stores(settings))
        traces.set_reader(rows.sessions.traceparent)
        clock = CheckedClock()
        accounts = make_accounts(settings, rows)
        vendor = await stack.enter_async_context(open_vendor(settings, rows, accounts, clock=clock))
        discovery = await stack.enter_async_context(open_discovery(settings))
        wakeups = ArqWakeups(redis)
        stack.push_async_callback(wakeups.stop)
        clock_monitor = ClockMonitor(clock, rows.database.clock)
        stack.push_async_callback(clock_monitor.stop)
        access = await _open_access(stack, settings, rows, unauthenticated_limits)
        services = Services(
            settings=settings,
            clock=clock,
            traces=traces,
            access=access,
            sessions=_make_sessions(stack, settings, rows, vendor, discovery, wakeups),
            audio=_make_audio(stack, settings, rows, vendor, access),
            destinations=DestinationServices(
                changes=make_destinations(settings, rows), queries=rows.destinations
            ),
            deliveries=DeliveryServices(changes=Deliveries(rows.deliveries), queries=rows.deliveries),
            medscribe=_make_medscribe(stack, rows, vendor, discovery),
            webhooks=WebhookServices(
                receiver=WebhookReceiver(store=rows.webhooks, wakeups=wakeups),
                secrets=accounts.webhook_secrets,
            ),
            operations=OperationServices(
                ledger=rows.ledger,
                audit=rows.audit,
                readiness=Readiness(
                    ping_database=partial(ping_store_for_requests, rows),
                    ping_redis=partial(ping_redis, redis),
                    clock=clock,
                    was_reached=lambda: rows.database.was_reached,
                ),
                database_wait=rows.database.longest_wait,
            ),
        )
        await wakeups.start()
        await clock_monitor.start(wait_seconds=0.0)
        yield services


async def _open_access(
    stack: AsyncExitStack, settings: Settings, rows: Stores, unauthenticated_limits: UnauthenticatedLimits
) -> AccessServices:
    rate_limiter = None
    if settings.rate_limit_per_second:
        policy = RateLimitPolicy(per_second=settings.rate_limit_per_second, burst=settings.rate_limit_burst)
        rate_limiter = await stack.enter_async_context(open_rate_limiter(settings.redis_url, policy))
    lookup = ApiKeyLookup(rows.api_keys)
    stack.push_async_callback(lookup.stop)
    revocations = RevocationPoller(rows.api_keys.active_keys)
    stack.push_async_callback(revocations.stop)
    return AccessServices(
        api_keys=rows.api_keys,
        lookup=lookup,
        revocations=revocations,
        rate_limiter=rate_limiter,
        unauthenticated_limits=unauthenticated_limits,
    )


def _make_sessions(
    stack: AsyncExitStack,
    settings: Settings,
    rows: Stores,
    vendor: EkaClient,
    discovery: Discovery,
    wakeups: ArqWakeups,
) -> SessionServices:
    clock = SystemClock()
    lifecycle = make_session_lifecycle(settings, rows, vendor)
    queries = SessionQueries(
        rows.database,
        rows.keyring,
        rows.sessions,
        rows.streams,
        settings.public_url or "",
        reserve_response,
    )
    change_poller = ChangePoller(rows.sessions.state_tokens)
    stack.push_async_callback(change_poller.stop)
    timeline_poller = ChangePoller(rows.sessions.timeline_tokens)
    stack.push_async_callback(timeline_poller.stop)
    return SessionServices(
        creator=SessionCreator(
            store=rows.sessions,
            idempotency=rows.idempotency,
            life=lifecycle,
            limits=discovery,
            read=queries.session,
        ),
        lifecycle=lifecycle,
        updates=SessionUpdates(
            store=rows.changes, sessions=rows.sessions, vendor=vendor, clock=clock, limits=discovery
        ),
        queries=queries,
        additional_documents=AdditionalDocumentRequests(
            store=rows.further,
            idempotency=rows.idempotency,
            vendor=vendor,
            clock=clock,
            read=queries.session,
        ),
        result_refresher=ResultRefresher(store=rows.refreshing, wakeups=wakeups),
        change_poller=change_poller,
        timeline_poller=timeline_poller,
        read_audit=ReadAudit(store=rows.audit, clock=clock),
    )


def _make_audio(
    stack: AsyncExitStack, settings: Settings, rows: Stores, vendor: EkaClient, access: AccessServices
) -> AudioServices:
    streams = Streams(
        store=rows.streams,
        vendor=EkaStreams(settings.eka_base_url, vendor.call_limiters, hosts=settings.eka_stream_hosts),
        admit=partial(count_handshake, access.rate_limiter),
        max_streams=settings.max_streams,
    )
    stack.push_async_callback(streams.stop)
    return AudioServices(
        uploads=AudioUploads(store=rows.chunks, sessions=rows.sessions, vendor=vendor), streams=streams
    )


def _make_medscribe(
    stack: AsyncExitStack, rows: Stores, vendor: EkaClient, discovery: Discovery
) -> MedscribeServices:
    templates = Templates(source=EkaTemplates(vendor), time=time.monotonic)
    stack.push_async_callback(templates.stop)
    return MedscribeServices(
        tokens=MedscribeTokens(rows.database, rows.hasher),
        queries=MedscribeQueries(rows.database, rows.keyring, reserve_response),
        login_failures=LocalRateLimiter(_LOGIN_FAILURES),
        discovery=discovery,
        templates=templates,
    )
