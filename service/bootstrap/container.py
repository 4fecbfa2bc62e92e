"""Builds what service, worker and command line share: the stores and the vendor's client."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from msgspec import Struct

from service.bootstrap.recordings import make_recording_cutter
from service.domain.audio.handover import AudioHandover
from service.domain.clock import CheckedClock, SystemClock
from service.domain.destinations.changes import Destinations
from service.domain.errors import StoreUnavailable
from service.domain.results.fetching import ResultFetcher
from service.domain.sessions.lifecycle import SessionLifecycle
from service.domain.sessions.pending_calls import PendingCalls
from service.domain.streams.late_replay import LateReplay
from service.domain.vendor_accounts import Accounts, Credentials, VendorAccount
from service.eka.audio_client import AudioClient
from service.eka.call_limiter import CallLimiters
from service.eka.client import EkaClient
from service.eka.discovery import Discovery
from service.eka.http_exchange import VendorHttp, make_http_client
from service.eka.streams import EkaStreams
from service.eka.tokens import TokenKeeper
from service.forwarding.destination_validation import DestinationLimits, check_destination_request
from service.forwarding.downloads import GuardedDownloads
from service.settings import Settings
from service.store.additional_documents import AdditionalDocumentRows
from service.store.api_keys import ApiKeyRows
from service.store.audio import AudioRows
from service.store.audio_blocks import AudioBlockRows
from service.store.audio_objects import AudioObjectRows
from service.store.audit import AuditRows
from service.store.circuit_breakers import CircuitBreakerRows
from service.store.database import Database
from service.store.deliveries import DeliveryRows
from service.store.destinations import DestinationRows
from service.store.encryption import Hasher, Keyring, MissingKeyError
from service.store.encryption_keys import EncryptionKeyRows
from service.store.held_audio import HeldAudioRows
from service.store.idempotency import IdempotencyKeys, IdempotencyRows
from service.store.kept_audio import KeptAudioRows
from service.store.ledger import LedgerRows
from service.store.named_leases import NamedLeaseRows
from service.store.queue_depths import QueueDepthRows
from service.store.recording_uploads import RecordingUploadRows
from service.store.recordings import RecordingRows
from service.store.reencryption import ReencryptionRows
from service.store.result_refresh import ResultRefreshRows
from service.store.results import ResultRows
from service.store.retention import RetentionRows
from service.store.session_updates import SessionUpdateRows
from service.store.sessions import SessionRows
from service.store.stream_audio import StreamAudioRows
from service.store.streams import StreamRows
from service.store.tenants import TenantRows
from service.store.vendor_accounts import VendorAccountRows
from service.store.vendor_tokens import VendorTokenRows
from service.store.webhook_events import WebhookEventRows

log = structlog.get_logger()


class Stores(Struct, frozen=True, kw_only=True):
    """The store's objects, one for each resource, over one connection pool."""

    database: Database
    keyring: Keyring
    hasher: Hasher
    encryption_keys: EncryptionKeyRows
    reencryption: ReencryptionRows
    tenants: TenantRows
    api_keys: ApiKeyRows
    vendor_accounts: VendorAccountRows
    sessions: SessionRows
    streams: StreamRows
    audio: AudioRows
    audio_objects: AudioObjectRows | None
    audio_blocks: AudioBlockRows
    held_audio: HeldAudioRows
    recordings: RecordingRows
    recording_uploads: RecordingUploadRows
    kept_audio: KeptAudioRows
    stream_audio: StreamAudioRows
    results: ResultRows
    result_refresh: ResultRefreshRows
    deliveries: DeliveryRows
    circuit_breakers: CircuitBreakerRows
    destinations: DestinationRows
    idempotency: IdempotencyRows
    vendor_tokens: VendorTokenRows
    leases: NamedLeaseRows
    webhook_events: WebhookEventRows
    session_updates: SessionUpdateRows
    additional_documents: AdditionalDocumentRows
    ledger: LedgerRows
    queue_depths: QueueDepthRows
    retention: RetentionRows
    audit: AuditRows


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open the stores; the pool connects on demand, so PostgreSQL may still be down."""
    database = _make_database(settings)
    await database.open()
    try:
        yield _make_stores(settings, database)
    finally:
        await database.close()


def _make_database(settings: Settings) -> Database:
    return Database(
        settings.database_url,
        size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache_size,
    )


def _make_stores(settings: Settings, database: Database) -> Stores:
    keyring = Keyring(settings.encryption_keys)
    hasher = Hasher(database, keyring)
    sessions = SessionRows(database, keyring, hasher)
    audio_objects = _make_audio_objects(settings, database, hasher)
    audio_blocks = AudioBlockRows(database, keyring, audio_objects)
    held_audio = HeldAudioRows(database, audio_blocks, max_held_bytes=settings.held_audio_max_bytes)
    idempotency_keys = IdempotencyKeys(keyring, hasher)
    return Stores(
        database=database,
        keyring=keyring,
        hasher=hasher,
        encryption_keys=EncryptionKeyRows(database, keyring),
        reencryption=ReencryptionRows(database, keyring),
        tenants=TenantRows(database, keyring),
        api_keys=ApiKeyRows(database, hasher),
        vendor_accounts=VendorAccountRows(database, keyring),
        sessions=sessions,
        streams=StreamRows(database, keyring, hasher),
        audio=AudioRows(database),
        audio_objects=audio_objects,
        audio_blocks=audio_blocks,
        held_audio=held_audio,
        stream_audio=StreamAudioRows(database, keyring, audio_blocks, held_audio),
        recordings=RecordingRows(
            database,
            blocks=audio_blocks,
            sessions=sessions,
            keys=idempotency_keys,
            # The rest of the connections stays free for everything else.
            max_writers=max(1, settings.database_pool_size // 4),
        ),
        recording_uploads=RecordingUploadRows(database, audio_blocks),
        kept_audio=KeptAudioRows(database, audio_blocks),
        results=ResultRows(database, keyring),
        result_refresh=ResultRefreshRows(database),
        deliveries=DeliveryRows(database, keyring),
        circuit_breakers=CircuitBreakerRows(database),
        destinations=DestinationRows(
            database, keyring, idempotency_keys, max_destinations=settings.max_destinations
        ),
        idempotency=IdempotencyRows(database, idempotency_keys, sessions),
        vendor_tokens=VendorTokenRows(database, keyring),
        leases=NamedLeaseRows(database),
        webhook_events=WebhookEventRows(database),
        session_updates=SessionUpdateRows(database, keyring, sessions),
        additional_documents=AdditionalDocumentRows(database),
        ledger=LedgerRows(database),
        queue_depths=QueueDepthRows(database),
        retention=RetentionRows(database),
        audit=AuditRows(database),
    )


def _make_audio_objects(settings: Settings, database: Database, hasher: Hasher) -> AudioObjectRows | None:
    if settings.audio_store_url is None:
        return None
    # Only an installation with an object store loads its library.
    from service.object_store.block_objects import ObjectStoreBlocks  # noqa: PLC0415

    return AudioObjectRows(database, ObjectStoreBlocks(settings.audio_store_url), hasher)


async def ping_store(stores: Stores) -> str:
    """Return `ok`, or why the database accepts no writes.

    Raises if it does not answer, lacks our schema, or holds values under a key that we lack.
    """
    state, _ = await _ping_store(stores)
    return state


async def _ping_store(stores: Stores) -> tuple[str, bool]:
    state = await stores.database.ping()
    is_registered = await stores.encryption_keys.check()
    await stores.hasher.load()
    return state, is_registered


async def ping_store_for_requests(stores: Stores) -> str:
    """Ping the store, and register the first encryption key of a process that started without PostgreSQL.

    Readiness runs before the first request, so the key is registered before it encrypts anything. A database
    that accepts no writes refuses the registration, too: then this process can still answer reads.
    """
    state, is_registered = await _ping_store(stores)
    if not is_registered:
        with suppress(StoreUnavailable):
            await stores.encryption_keys.register_first()
    return state


async def check_keys(stores: Stores, check: Callable[[], Awaitable[object]]) -> None:
    """Run a check of the key registry; raises MissingKeyError with the unreadable values and the remedy."""
    try:
        await check()
    except MissingKeyError as error:
        raise await stores.encryption_keys.explained(error) from None


async def check_at_start(stores: Stores) -> None:
    """Check the store and the keys before work begins; an unreachable store is no failure.

    Raises DecryptionError if values are encrypted with a key that we lack: a process that fails at its start
    is noticed, one that fails at its first such value may fail at night.
    """
    try:
        await stores.database.ping()
        await check_keys(stores, stores.encryption_keys.begin)
        await stores.hasher.load()
    except StoreUnavailable as error:
        log.warning("started_without_database", detail=error.detail)


def make_destinations(settings: Settings, stores: Stores) -> Destinations:
    """Make the domain's changes of destinations, for the API and the command line."""
    return Destinations(
        store=stores.destinations,
        check=partial(check_destination_request, limits=make_destination_limits(settings)),
    )


def make_accounts(settings: Settings, stores: Stores) -> Accounts:
    """Make the lookup of vendor accounts: a tenant's own account, or the default of the settings."""
    default = VendorAccount(
        credentials=_default_credentials(settings), webhook_secrets=settings.webhook_secrets
    )
    return Accounts(default=default, store=stores.vendor_accounts, time=time.monotonic)


def _default_credentials(settings: Settings) -> Credentials:
    return Credentials(
        token=settings.eka_token,
        client_id=settings.eka_client_id,
        client_secret=settings.eka_client_secret,
        sharing_key=settings.eka_sharing_key,
        username=settings.eka_username,
        password=settings.eka_password,
    )


@asynccontextmanager
async def open_vendor(
    settings: Settings,
    stores: Stores,
    accounts: Accounts,
    *,
    clock: CheckedClock | None = None,
) -> AsyncIterator[EkaClient]:
    """Open the vendor's client; `clock` compares itself with the dates of the vendor's answers."""
    async with (
        make_http_client(
            clock.observe_vendor_date if clock else None, max_result_bytes=settings.vendor_result_max_bytes
        ) as http,
        AudioClient(settings.eka_base_url) as audio,
        GuardedDownloads(allow_private=settings.allow_private_destinations) as downloads,
    ):
        yield EkaClient(
            http=http,
            audio=audio,
            tokens=_make_token_keeper(settings, stores, accounts, http),
            call_limiters=CallLimiters(max_calls=settings.eka_max_concurrency),
            downloads=downloads,
            base_url=settings.eka_base_url,
            max_result_bytes=settings.vendor_result_max_bytes,
        )


def _make_token_keeper(
    settings: Settings, stores: Stores, accounts: Accounts, http: VendorHttp
) -> TokenKeeper:
    return TokenKeeper(
        http=http,
        store=stores.vendor_tokens,
        clock=SystemClock(),
        base_url=settings.eka_base_url,
        credentials=accounts.credentials,
    )


@asynccontextmanager
async def open_discovery(settings: Settings) -> AsyncIterator[Discovery]:
    """Open the discovery of the vendor's limits; its first use calls the vendor."""
    async with make_http_client() as http:
        discovery = Discovery(http=http, base_url=settings.eka_base_url, clock=SystemClock())
        try:
            yield discovery
        finally:
            await discovery.stop()


def make_vendor_streams(settings: Settings, vendor: EkaClient) -> EkaStreams:
    """Make what opens the vendor's side of streams."""
    return EkaStreams(settings.eka_base_url, vendor.call_limiters, hosts=settings.eka_stream_hosts)


def make_session_lifecycle(settings: Settings, stores: Stores, vendor: EkaClient) -> SessionLifecycle:
    """Make the lifecycle of sessions: the service uses it for EMRs, the worker for pending calls."""
    return SessionLifecycle(
        store=stores.sessions,
        streams=stores.streams,
        vendor=vendor,
        clock=SystemClock(),
        reconcile_after_seconds=settings.reconcile_after_seconds,
        late_replay=LateReplay(store=stores.stream_audio, vendor=make_vendor_streams(settings, vendor)),
    )


def make_pending_calls(
    settings: Settings, stores: Stores, vendor: EkaClient, discovery: Discovery, fetcher: ResultFetcher
) -> PendingCalls:
    """Make what the worker needs for the vendor calls that no caller finished."""
    return PendingCalls(
        store=stores.sessions,
        lifecycle=make_session_lifecycle(settings, stores, vendor),
        vendor=vendor,
        handover=AudioHandover(store=stores.held_audio, vendor=vendor),
        cutter=make_recording_cutter(settings, stores.recordings, discovery),
        fail=fetcher.fail,
        clock=SystemClock(),
    )


def make_destination_limits(settings: Settings) -> DestinationLimits:
    """Make the limits that a new or changed destination must meet."""
    return DestinationLimits(
        allow_private=settings.allow_private_destinations,
        max_templates=settings.max_destination_templates,
        max_headers=settings.max_destination_headers,
    )
