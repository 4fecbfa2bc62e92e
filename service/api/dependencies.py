"""The services that routes call, wired by the composition root."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from service.api.middleware.session_trace import SessionTraces
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.readiness import Readiness
from service.domain.api_keys.lookup import ApiKeyLookup
from service.domain.api_keys.revocation import RevocationPoller
from service.domain.audio.uploads import AudioUploads
from service.domain.clock import CheckedClock
from service.domain.deliveries.recovery import Deliveries
from service.domain.destinations.changes import Destinations
from service.domain.ids import Account
from service.domain.read_audit import ReadAudit
from service.domain.results.additional_document_requests import AdditionalDocumentRequests
from service.domain.results.refreshing import ResultRefresher
from service.domain.sessions.change_polling import ChangePoller
from service.domain.sessions.creation import SessionCreator
from service.domain.sessions.lifecycle import SessionLifecycle
from service.domain.sessions.updates import SessionUpdates
from service.domain.streams.connections import Streams
from service.domain.templates import Templates
from service.domain.token_bucket import LocalRateLimiter
from service.domain.webhooks import WebhookReceiver
from service.eka.discovery import Discovery
from service.redis.rate_limiter import SharedRateLimiter
from service.settings import Settings
from service.store.api_keys import ApiKeyRows
from service.store.audit import AuditRows
from service.store.deliveries import DeliveryRows
from service.store.destinations import DestinationRows
from service.store.ledger import LedgerRows
from service.store.medscribe_queries import MedscribeQueries
from service.store.medscribe_tokens import MedscribeTokens
from service.store.session_queries import SessionQueries


class AccessServices(Struct, frozen=True, kw_only=True):
    """Authentication of callers, and the limits that hold before and after it."""

    api_keys: ApiKeyRows
    lookup: ApiKeyLookup
    revocations: RevocationPoller
    rate_limiter: SharedRateLimiter | None
    unauthenticated_limits: UnauthenticatedLimits


class SessionServices(Struct, frozen=True, kw_only=True):
    """Sessions and their documents."""

    creator: SessionCreator
    lifecycle: SessionLifecycle
    updates: SessionUpdates
    queries: SessionQueries
    additional_documents: AdditionalDocumentRequests
    result_refresher: ResultRefresher
    change_poller: ChangePoller
    timeline_poller: ChangePoller
    read_audit: ReadAudit


class AudioServices(Struct, frozen=True, kw_only=True):
    """Chunks and live streams."""

    uploads: AudioUploads
    streams: Streams


class DestinationServices(Struct, frozen=True, kw_only=True):
    """Destinations; `queries` are the store's rows, only to read from."""

    changes: Destinations
    queries: DestinationRows


class DeliveryServices(Struct, frozen=True, kw_only=True):
    """Deliveries; `queries` are the store's rows, only to read from."""

    changes: Deliveries
    queries: DeliveryRows


class MedscribeServices(Struct, frozen=True, kw_only=True):
    """The vendor's protocol for its own clients."""

    tokens: MedscribeTokens
    queries: MedscribeQueries
    login_failures: LocalRateLimiter
    discovery: Discovery
    templates: Templates


class WebhookServices(Struct, frozen=True, kw_only=True):
    """The vendor's webhooks; `secrets` returns the signing secrets of an account, None if it has none."""

    receiver: WebhookReceiver
    secrets: Callable[[Account], Awaitable[tuple[str, ...] | None]]


class OperationServices(Struct, frozen=True, kw_only=True):
    """Ledger, audit trail and health; `database_wait` is the longest wait for a connection, in seconds."""

    ledger: LedgerRows
    audit: AuditRows
    readiness: Readiness
    database_wait: Callable[[], float]


class Services(Struct, frozen=True, kw_only=True):
    """Domain functions for changes, and the store's queries for reads, by group of routes."""

    settings: Settings
    clock: CheckedClock
    traces: SessionTraces
    access: AccessServices
    sessions: SessionServices
    audio: AudioServices
    destinations: DestinationServices
    deliveries: DeliveryServices
    medscribe: MedscribeServices
    webhooks: WebhookServices
    operations: OperationServices
