"""What the doors call: handed down by the composition root."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from schemas.destinations import DestinationChange, DestinationCreate
from service.api.readiness import Readiness
from service.api.strangers import Strangers
from service.api.traces import SessionTraces
from service.clock import CheckedClock
from service.domain.audio import AudioIntake
from service.domain.authentication import Authentication
from service.domain.changes import SessionChanges
from service.domain.creation import SessionDesk
from service.domain.further import FurtherDocuments
from service.domain.ids import Account
from service.domain.rates import LocalRates
from service.domain.reading import ReadTrail
from service.domain.results.refreshing import Refreshing
from service.domain.revocations import Revocations
from service.domain.sessions import SessionLife
from service.domain.streams import Streams
from service.domain.templates import Templates
from service.domain.watch import ChangeWatch
from service.domain.webhooks import WebhookIntake
from service.eka.discovery import Discovery
from service.jobs.rates import SharedRates
from service.settings import Settings
from service.store.access import AccessRows
from service.store.audit import AuditRows
from service.store.deliveries import DeliveryRows
from service.store.destinations import DestinationRows
from service.store.ledger import LedgerRows
from service.store.recovery import RecoveryRows
from service.store.views import SessionViews
from service.store.voice_tokens import VoiceTokens
from service.store.voice_views import VoiceViews


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
    access: AccessRows
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
