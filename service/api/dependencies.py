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
from service.domain.streams.lifecycle import Streams
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


class Services(Struct, frozen=True, kw_only=True):
    """Domain functions for changes, and the store's queries for reads, by the names that routes use."""

    settings: Settings
    clock: CheckedClock
    traces: SessionTraces
    api_keys: ApiKeyRows
    authentication: ApiKeyLookup
    revocations: RevocationPoller
    rate_limiter: SharedRateLimiter | None
    login_failures: LocalRateLimiter
    unauthenticated_limits: UnauthenticatedLimits
    session_creator: SessionCreator
    lifecycle: SessionLifecycle
    audio: AudioUploads
    streams: Streams
    session_queries: SessionQueries
    session_updates: SessionUpdates
    additional_documents: AdditionalDocumentRequests
    result_refresher: ResultRefresher
    templates: Templates
    change_poller: ChangePoller
    timeline_poller: ChangePoller
    webhooks: WebhookReceiver
    destinations: Destinations
    destination_rows: DestinationRows
    deliveries: Deliveries
    delivery_rows: DeliveryRows
    ledger: LedgerRows
    audit: AuditRows
    read_audit: ReadAudit
    webhook_secrets: Callable[[Account], Awaitable[tuple[str, ...] | None]]
    discovery: Discovery
    medscribe_tokens: MedscribeTokens
    medscribe_queries: MedscribeQueries
    readiness: Readiness
    database_wait: Callable[[], float]
