"""What the doors call: handed down by the composition root."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from service.domain.audio import AudioIntake
from service.domain.changes import SessionChanges
from service.domain.creation import SessionDesk
from service.domain.further import FurtherDocuments
from service.domain.ids import Account
from service.domain.sessions import SessionLife
from service.domain.streams import Streams
from service.domain.watch import ChangeWatch
from service.domain.webhooks import WebhookIntake
from service.eka.discovery import Discovery
from service.settings import Settings
from service.store.access import AccessRows
from service.store.deliveries import DeliveryRows, DestinationRows
from service.store.views import SessionViews
from service.store.voice_tokens import VoiceTokens
from service.store.voice_views import VoiceViews


class CheckUrl(Protocol):
    """Refuses a destination's URL that must not be called."""

    async def __call__(self, url: str) -> None:
        """Raise DestinationForbidden."""
        ...


class Services(Struct, frozen=True, kw_only=True):
    """Domain functions and reads, by the name a door knows them."""

    settings: Settings
    access: AccessRows
    desk: SessionDesk
    life: SessionLife
    audio: AudioIntake
    streams: Streams
    views: SessionViews
    changes: SessionChanges
    further: FurtherDocuments
    watch: ChangeWatch
    timeline_watch: ChangeWatch
    webhooks: WebhookIntake
    destinations: DestinationRows
    deliveries: DeliveryRows
    check_url: CheckUrl
    webhook_secrets: Callable[[Account], Awaitable[tuple[str, ...] | None]]
    discovery: Discovery
    tokens: VoiceTokens
    voice: VoiceViews
    ping_database: Callable[[], Awaitable[None]]
    ping_redis: Callable[[], Awaitable[bool]]
