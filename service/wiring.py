"""What both processes are made of, wired once: the rows, the vendor, the hasher."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from msgspec import Struct

from service.clock import SystemClock
from service.domain.errors import StoreUnavailable
from service.domain.sessions import SessionLife
from service.eka.client import EkaClient
from service.eka.tokens import Credentials, TokenKeeper
from service.eka.wire import make_http_client
from service.settings import Settings
from service.store.access import AccessRows
from service.store.coordination import IdempotencyRows, LeaseRows, TokenRows, WebhookRows
from service.store.database import Database
from service.store.deliveries import DeliveryRows, DestinationRows
from service.store.results import ResultRows
from service.store.sealing import Hasher, Keyring
from service.store.sessions import SessionRows

log = structlog.get_logger()


class Rows(Struct, frozen=True, kw_only=True):
    """Every room of the store, over one pool."""

    database: Database
    keyring: Keyring
    hasher: Hasher
    access: AccessRows
    sessions: SessionRows
    results: ResultRows
    deliveries: DeliveryRows
    destinations: DestinationRows
    idempotency: IdempotencyRows
    tokens: TokenRows
    leases: LeaseRows
    webhooks: WebhookRows


@asynccontextmanager
async def open_rows(settings: Settings) -> AsyncIterator[Rows]:
    """Open the store; its connections are made when they are needed."""
    database = Database(
        settings.database_url,
        size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache_size,
    )
    keyring = Keyring(settings.encryption_keys)
    hasher = Hasher(database, keyring)
    sessions = SessionRows(database, keyring, hasher)
    await database.open()
    try:
        yield Rows(
            database=database,
            keyring=keyring,
            hasher=hasher,
            access=AccessRows(database, hasher),
            sessions=sessions,
            results=ResultRows(database, keyring),
            deliveries=DeliveryRows(database, keyring),
            destinations=DestinationRows(database, keyring),
            idempotency=IdempotencyRows(database, keyring, hasher, sessions),
            tokens=TokenRows(database, keyring),
            leases=LeaseRows(database),
            webhooks=WebhookRows(database),
        )
    finally:
        await database.close()


async def ping_store(rows: Rows) -> None:
    """Raise unless the database answers, has our schema, and its secret opens with our keys."""
    await rows.database.ping()
    await rows.hasher.load()


async def check_at_start(rows: Rows) -> None:
    """Look at the store once before work begins; one that is away is waited for.

    Raises SealError when the database was made with a key that we were not given: better now than at 2 a.m.
    """
    try:
        await ping_store(rows)
    except StoreUnavailable as error:
        log.warning("started_without_database", detail=error.detail)


@asynccontextmanager
async def open_vendor(settings: Settings, rows: Rows) -> AsyncIterator[EkaClient]:
    """Open the vendor's client."""
    async with make_http_client() as http:
        credentials = Credentials(
            base_url=settings.eka_base_url,
            token=settings.eka_token,
            client_id=settings.eka_client_id,
            client_secret=settings.eka_client_secret,
            sharing_key=settings.eka_sharing_key,
        )
        tokens = TokenKeeper(http=http, store=rows.tokens, clock=SystemClock(), credentials=credentials)
        yield EkaClient(http=http, tokens=tokens, base_url=settings.eka_base_url)


def make_session_life(settings: Settings, rows: Rows, vendor: EkaClient) -> SessionLife:
    """Make what creates and ends sessions: the service for EMRs, the worker for calls that are owed."""
    return SessionLife(
        store=rows.sessions,
        vendor=vendor,
        clock=SystemClock(),
        reconcile_after_seconds=settings.reconcile_after_seconds,
    )
