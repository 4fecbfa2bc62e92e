"""What the doors call: handed down by the composition root."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from schemas.destinations import DestinationChange, DestinationCreate
from service.api.middleware.session_trace import SessionTraces
from service.api.middleware.unauthenticated_limits import Strangers
from service.api.readiness import Readiness
from service.domain.api_keys.lookup import Authentication
from service.domain.api_keys.revocation import Revocations
from service.domain.audio.uploads import AudioIntake
from service.domain.clock import CheckedClock
from service.domain.ids import Account
from service.domain.read_audit import ReadTrail
from service.domain.results.additional_document_requests import FurtherDocuments
from service.domain.results.refreshing import Refreshing
from service.domain.sessions.change_polling import ChangeWatch
from service.domain.sessions.creation import SessionDesk
from service.domain.sessions.lifecycle import SessionLife
from service.domain.sessions.updates import SessionChanges
from service.domain.streams.lifecycle import Streams
from service.domain.templates import Templates
from service.domain.token_bucket import LocalRates
from service.domain.webhooks import WebhookIntake
from service.eka.discovery import Discovery
from service.redis.rate_limiter import SharedRates
from service.settings import Settings
from service.store.api_keys import ApiKeyRows
from service.store.audit import AuditRows
from service.store.deliveries import DeliveryRows
from service.store.delivery_recovery import RecoveryRows
from service.store.destinations import DestinationRows
from service.store.ledger import LedgerRows
from service.store.medscribe_queries import VoiceViews
from service.store.medscribe_tokens import VoiceTokens
from service.store.session_queries import SessionViews


class CheckCall(Protocol):
    """Refuses a destination's URL, headers or credentials that no call must be made with."""

    async def __call__(self, request: DestinationCreate | DestinationChange) -> None:
        """Raise DestinationForbidden or InvalidRequest."""
        ...


class Services(Struct, frozen=True, kw_only=True):
    """Domain functions and reads, by the name a door knows them."""

    settings: Settings
    clock: CheckedClock
    traces: SessionTraces
    api_keys: ApiKeyRows
    authentication: Authentication
    revocations: Revocations
    rates: SharedRates | None
    login_failures: LocalRates
    strangers: Strangers
    desk: SessionDesk
    life: SessionLife
    audio: AudioIntake
    streams: Streams
    views: SessionViews
    changes: SessionChanges
    further: FurtherDocuments
    refreshing: Refreshing
    templates: Templates
    watch: ChangeWatch
    timeline_watch: ChangeWatch
    webhooks: WebhookIntake
    destinations: DestinationRows
    deliveries: DeliveryRows
    recovery: RecoveryRows
    ledger: LedgerRows
    audit: AuditRows
    trail: ReadTrail
    check_call: CheckCall
    webhook_secrets: Callable[[Account], Awaitable[tuple[str, ...] | None]]
    discovery: Discovery
    tokens: VoiceTokens
    voice: VoiceViews
    readiness: Readiness
    database_wait: Callable[[], float]
