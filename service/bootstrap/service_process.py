"""Builds what the routes of a process of `ekabridge serve` call, and closes it when the process ends.

container.py builds the objects that worker and command line need too; worker.py builds those of the worker.
"""

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
from service.api.encrypted_spool import EncryptedSpool, SpoolBudget
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
    make_vendor_streams,
    open_discovery,
    open_stores,
    open_vendor,
    ping_store_for_requests,
)
from service.bootstrap.recordings import make_recording_intake, make_recording_uploads
from service.domain.api_keys.lookup import ApiKeyLookup
from service.domain.api_keys.revocation import RevocationPoller
from service.domain.audio.kept import KeptAudio
from service.domain.audio.uploads import AudioUploads
from service.domain.clock import CheckedClock, SystemClock
from service.domain.deliveries.recovery import Deliveries
from service.domain.read_audit import ReadAudit
from service.domain.recordings.intake import RecordingIntake
from service.domain.recordings.uploads import RecordingUploads
from service.domain.results.additional_document_requests import AdditionalDocumentRequests
from service.domain.results.refreshing import ResultRefresher
from service.domain.sessions.change_polling import ChangePoller
from service.domain.sessions.creation import SessionCreator
from service.domain.sessions.updates import SessionUpdates
from service.domain.streams.connections import Streams
from service.domain.templates import Templates
from service.domain.token_bucket import LocalRateLimiter, RateLimitPolicy
from service.domain.webhooks import WebhookReceiver
from service.eka.client import EkaClient
from service.eka.discovery import Discovery
from service.eka.templates import EkaTemplates
from service.jobs.monitors.clock import ClockMonitor
from service.observability.tracing import stop_tracing
from service.redis.client import close_redis, open_redis, ping_redis
from service.redis.rate_limiter import open_rate_limiter
from service.redis.wakeups import ArqWakeups
from service.settings import Settings
from service.store.kept_audio import KeptAudioRows
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
        stores = await stack.enter_async_context(open_stores(settings))
        traces.set_reader(stores.sessions.traceparent)
        clock = CheckedClock()
        accounts = make_accounts(settings, stores)
        vendor = await stack.enter_async_context(open_vendor(settings, stores, accounts, clock=clock))
        discovery = await stack.enter_async_context(open_discovery(settings))
        wakeups = ArqWakeups(redis)
        stack.push_async_callback(wakeups.stop)
        clock_monitor = ClockMonitor(clock, stores.database.clock)
        stack.push_async_callback(clock_monitor.stop)
        access = await _open_access(stack, settings, stores, unauthenticated_limits)
        sessions = _make_sessions(stack, settings, stores, vendor, discovery, wakeups)
        services = Services(
            settings=settings,
            clock=clock,
            traces=traces,
            access=access,
            sessions=sessions,
            audio=_make_audio(
                stack,
                settings,
                stores,
                vendor,
                access,
                make_recording_intake(
                    settings,
                    stores.recordings,
                    stores.held_audio,
                    discovery,
                    wakeups,
                    sessions.queries.session,
                ),
                make_recording_uploads(settings, stores.recording_uploads, stores.held_audio, wakeups),
            ),
            destinations=DestinationServices(
                changes=make_destinations(settings, stores), queries=stores.destinations
            ),
            deliveries=DeliveryServices(changes=Deliveries(stores.deliveries), queries=stores.deliveries),
            medscribe=_make_medscribe(stack, stores, vendor, discovery),
            webhooks=WebhookServices(
                receiver=WebhookReceiver(store=stores.webhook_events, wakeups=wakeups),
                secrets=accounts.webhook_secrets,
            ),
            operations=OperationServices(
                ledger=stores.ledger,
                audit=stores.audit,
                readiness=Readiness(
                    ping_database=partial(ping_store_for_requests, stores),
                    ping_redis=partial(ping_redis, redis),
                    clock=clock,
                    was_reached=lambda: stores.database.was_reached,
                ),
                database_wait=stores.database.longest_wait,
            ),
        )
        await wakeups.start()
        await clock_monitor.start(wait_seconds=0.0)
        yield services


async def _open_access(
    stack: AsyncExitStack, settings: Settings, stores: Stores, unauthenticated_limits: UnauthenticatedLimits
) -> AccessServices:
    rate_limiter = None
    if settings.rate_limit_per_second:
        policy = RateLimitPolicy(per_second=settings.rate_limit_per_second, burst=settings.rate_limit_burst)
        rate_limiter = await stack.enter_async_context(open_rate_limiter(settings.redis_url, policy))
    lookup = ApiKeyLookup(stores.api_keys)
    stack.push_async_callback(lookup.stop)
    revocations = RevocationPoller(stores.api_keys.active_keys)
    stack.push_async_callback(revocations.stop)
    return AccessServices(
        api_keys=stores.api_keys,
        lookup=lookup,
        revocations=revocations,
        rate_limiter=rate_limiter,
        unauthenticated_limits=unauthenticated_limits,
    )


def _make_sessions(
    stack: AsyncExitStack,
    settings: Settings,
    stores: Stores,
    vendor: EkaClient,
    discovery: Discovery,
    wakeups: ArqWakeups,
) -> SessionServices:
    clock = SystemClock()
    lifecycle = make_session_lifecycle(settings, stores, vendor)
    queries = SessionQueries(
        stores.database,
        stores.keyring,
        stores.sessions,
        stores.streams,
        settings.public_url or "",
        reserve_response,
    )
    change_poller = ChangePoller(stores.sessions.state_tokens)
    stack.push_async_callback(change_poller.stop)
    timeline_poller = ChangePoller(stores.sessions.timeline_tokens)
    stack.push_async_callback(timeline_poller.stop)
    return SessionServices(
        creator=SessionCreator(
            store=stores.sessions,
            idempotency=stores.idempotency,
            lifecycle=lifecycle,
            limits=discovery,
            read=queries.session,
            keep_audio=settings.keep_audio,
        ),
        lifecycle=lifecycle,
        updates=SessionUpdates(
            store=stores.session_updates,
            sessions=stores.sessions,
            vendor=vendor,
            clock=clock,
            limits=discovery,
        ),
        queries=queries,
        additional_documents=AdditionalDocumentRequests(
            store=stores.additional_documents,
            idempotency=stores.idempotency,
            vendor=vendor,
            clock=clock,
            read=queries.session,
        ),
        result_refresher=ResultRefresher(store=stores.result_refresh, wakeups=wakeups),
        change_poller=change_poller,
        timeline_poller=timeline_poller,
        read_audit=ReadAudit(store=stores.audit, clock=clock),
    )


def _make_audio(
    stack: AsyncExitStack,
    settings: Settings,
    stores: Stores,
    vendor: EkaClient,
    access: AccessServices,
    recordings: RecordingIntake,
    recording_uploads: RecordingUploads,
) -> AudioServices:
    streams = Streams(
        store=stores.streams,
        vendor=make_vendor_streams(settings, vendor),
        held=stores.stream_audio,
        make_spool=partial(EncryptedSpool, SpoolBudget(settings.max_spool_bytes // 2)),
        admit=partial(count_handshake, access.rate_limiter),
        max_streams=settings.max_streams,
    )
    stack.push_async_callback(streams.stop)
    return AudioServices(
        uploads=AudioUploads(
            store=stores.audio, held_audio=stores.held_audio, sessions=stores.sessions, vendor=vendor
        ),
        recordings=recordings,
        recording_uploads=recording_uploads,
        kept=KeptAudio(KeptAudioRows(stores.database, stores.audio_blocks, reserve_response)),
        streams=streams,
    )


def _make_medscribe(
    stack: AsyncExitStack, stores: Stores, vendor: EkaClient, discovery: Discovery
) -> MedscribeServices:
    templates = Templates(source=EkaTemplates(vendor), time=time.monotonic)
    stack.push_async_callback(templates.stop)
    return MedscribeServices(
        tokens=MedscribeTokens(stores.database, stores.hasher),
        queries=MedscribeQueries(stores.database, stores.keyring, reserve_response),
        login_failures=LocalRateLimiter(_LOGIN_FAILURES),
        discovery=discovery,
        templates=templates,
    )
