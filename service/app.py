"""The service process: opens what the doors need, wires it, and hands it down."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Self

from litestar import Litestar, Router
from litestar.di import Provide

from service.api.authentication import authenticate, provide_principal, provide_services
from service.api.dependencies import Services
from service.api.health import live, metrics, ready
from service.api.medscribe.error_envelope import with_medscribe_errors
from service.api.medscribe.routes import MEDSCRIBE_ROUTES
from service.api.middleware.admission_control import AdmissionControl
from service.api.middleware.load_monitor import LoadMonitor
from service.api.middleware.medscribe_cors import MedscribeCors
from service.api.middleware.request_context import RequestContextMiddleware
from service.api.middleware.response_memory import reserve_response
from service.api.middleware.security_headers import SecurityHeaders
from service.api.middleware.session_trace import SessionTraces
from service.api.middleware.shutdown_response import ShutdownResponse
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.openapi import documentation_asset, documentation_page, openapi_config
from service.api.problems import HANDLERS
from service.api.rate_limit import count_handshake
from service.api.readiness import Readiness
from service.api.request_classes import handler_of
from service.api.v1.audio import put_audio
from service.api.v1.audit import audit_router
from service.api.v1.deliveries import deliveries_router
from service.api.v1.destinations import destinations_router
from service.api.v1.documents import documents_router
from service.api.v1.ledger import ledger_router
from service.api.v1.session_events import follow_events
from service.api.v1.session_stream import stream_audio
from service.api.v1.session_updates import session_updates_router
from service.api.v1.sessions import sessions_router
from service.api.vendor_webhooks import receive_tenant_webhook, receive_webhook
from service.bootstrap.container import (
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
from service.eka.streams import EkaStreams
from service.eka.templates import EkaTemplates
from service.http_server import allow_open_files
from service.jobs.monitors.clock import ClockMonitor
from service.observability.logging import configure_logs
from service.observability.metrics import tell_build
from service.observability.tracing import start_tracing, stop_tracing
from service.redis.client import close_redis, open_redis, ping_redis
from service.redis.rate_limiter import open_rate_limiter
from service.redis.wakeups import ArqWakeups
from service.settings import SERVICE, Settings, load_settings
from service.store.medscribe_queries import MedscribeQueries
from service.store.medscribe_tokens import MedscribeTokens
from service.store.session_queries import SessionQueries

# The database's and Redis's connections, calls to EkaScribe, and what Python itself has open.
_OTHER_FILES = 512
# Failed logins of one client_id, in one process: ten at once, then ten a minute.
_LOGIN_FAILURES = RateLimitPolicy(per_second=10 / 60, burst=10)


class _Fresh(Router):
    """A router of one application, which need not copy it with all that it holds to make it its own."""

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


def create_app(settings: Settings) -> RequestContextMiddleware:
    """Make the service's ASGI application."""
    load_monitor, traces = LoadMonitor(), SessionTraces()
    unauthenticated_limits = UnauthenticatedLimits(address_header=settings.client_address_header)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_services(settings, traces, unauthenticated_limits) as services:
            app.state.services = services
            load_monitor.add_source(services.database_wait)
            yield

    v1 = _Fresh(
        "/v1",
        route_handlers=[
            sessions_router,
            session_updates_router,
            documents_router,
            follow_events,
            put_audio,
            destinations_router,
            deliveries_router,
            ledger_router,
            audit_router,
        ],
        guards=[authenticate],
        dependencies={"principal": Provide(provide_principal, sync_to_thread=False)},
        security=[{"apiKey": []}],
    )
    app = Litestar(
        [
            v1,
            *MEDSCRIBE_ROUTES,
            stream_audio,
            receive_webhook,
            receive_tenant_webhook,
            live,
            ready,
            metrics,
            documentation_page,
            documentation_asset,
        ],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers=with_medscribe_errors(HANDLERS),
        lifespan=[lifespan],
        openapi_config=openapi_config(version("ekabridge")),
        logging_config=None,
    )
    admitted = AdmissionControl(
        ShutdownResponse(app), partial(handler_of, app), settings, load_monitor, unauthenticated_limits
    )
    return RequestContextMiddleware(SecurityHeaders(MedscribeCors(admitted, settings.voice_origins)), traces)


@asynccontextmanager
async def open_services(
    settings: Settings, traces: SessionTraces, unauthenticated_limits: UnauthenticatedLimits
) -> AsyncIterator[Services]:
    """Open the store, the vendor and Redis, none of which need be there yet."""
    redis = open_redis(settings.redis_url)
    wakeups = ArqWakeups(redis)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_redis, redis)
        rows = await stack.enter_async_context(open_stores(settings))
        clock = CheckedClock()
        traces.set_reader(rows.sessions.traceparent)
        accounts = make_accounts(settings, rows)
        vendor = await stack.enter_async_context(open_vendor(settings, rows, accounts, clock=clock))
        discovery = await stack.enter_async_context(open_discovery(settings))
        lifecycle = make_session_lifecycle(settings, rows, vendor)
        session_queries = SessionQueries(
            rows.database,
            rows.keyring,
            rows.sessions,
            rows.streams,
            settings.public_url or "",
            reserve_response,
        )
        change_poller = ChangePoller(rows.sessions.standings)
        timeline_poller = ChangePoller(rows.sessions.marks)
        rate_limiter = None
        if settings.rate_limit_per_second:
            policy = RateLimitPolicy(
                per_second=settings.rate_limit_per_second, burst=settings.rate_limit_burst
            )
            rate_limiter = await stack.enter_async_context(open_rate_limiter(settings.redis_url, policy))
        authentication = ApiKeyLookup(rows.api_keys)
        revocations = RevocationPoller(rows.api_keys.active_keys)
        streams = Streams(
            store=rows.streams,
            vendor=EkaStreams(settings.eka_base_url, vendor.call_limiters, hosts=settings.eka_stream_hosts),
            admit=partial(count_handshake, rate_limiter),
            max_streams=settings.max_streams,
        )

        templates = Templates(source=EkaTemplates(vendor), time=time.monotonic)
        clock_watch = ClockMonitor(clock, rows.database.clock)

        await wakeups.start()
        await clock_watch.start(wait_seconds=0.0)
        try:
            yield Services(
                settings=settings,
                clock=clock,
                traces=traces,
                api_keys=rows.api_keys,
                authentication=authentication,
                revocations=revocations,
                rate_limiter=rate_limiter,
                login_failures=LocalRateLimiter(_LOGIN_FAILURES),
                unauthenticated_limits=unauthenticated_limits,
                session_creator=SessionCreator(
                    store=rows.sessions,
                    idempotency=rows.idempotency,
                    life=lifecycle,
                    limits=discovery,
                    read=session_queries.session,
                ),
                lifecycle=lifecycle,
                audio=AudioUploads(store=rows.chunks, vendor=vendor),
                streams=streams,
                session_queries=session_queries,
                session_updates=SessionUpdates(
                    store=rows.changes,
                    sessions=rows.sessions,
                    vendor=vendor,
                    clock=SystemClock(),
                    limits=discovery,
                ),
                additional_documents=AdditionalDocumentRequests(
                    store=rows.further,
                    idempotency=rows.idempotency,
                    vendor=vendor,
                    clock=SystemClock(),
                    read=session_queries.session,
                ),
                result_refresher=ResultRefresher(store=rows.refreshing, wakeups=wakeups),
                templates=templates,
                change_poller=change_poller,
                timeline_poller=timeline_poller,
                webhooks=WebhookReceiver(store=rows.webhooks, wakeups=wakeups),
                destinations=make_destinations(settings, rows),
                destination_rows=rows.destinations,
                deliveries=Deliveries(rows.deliveries),
                delivery_rows=rows.deliveries,
                ledger=rows.ledger,
                audit=rows.audit,
                read_audit=ReadAudit(store=rows.audit, clock=SystemClock()),
                webhook_secrets=accounts.webhook_secrets,
                discovery=discovery,
                medscribe_tokens=MedscribeTokens(rows.database, rows.hasher),
                medscribe_queries=MedscribeQueries(rows.database, rows.keyring, reserve_response),
                readiness=Readiness(
                    ping_database=partial(ping_store_for_requests, rows),
                    ping_redis=partial(ping_redis, redis),
                    clock=clock,
                    was_reached=lambda: rows.database.was_reached,
                ),
                database_wait=rows.database.longest_wait,
            )
        finally:
            await clock_watch.stop()
            await streams.stop()
            await templates.stop()
            await change_poller.stop()
            await timeline_poller.stop()
            await revocations.stop()
            await authentication.stop()
            await wakeups.stop()
            await asyncio.to_thread(stop_tracing)


def app_from_environment() -> RequestContextMiddleware:
    """Make the application from the environment: what each worker process of `serve` runs."""
    settings = load_settings(os.environ, needs=SERVICE)
    configure_logs(settings.log_level)
    tell_build("serve")
    start_tracing("serve")
    # An upload has its client, EkaScribe and a file.
    allow_open_files(settings.max_connections + 2 * settings.max_uploads + _OTHER_FILES)
    return create_app(settings)
