"""What a webhook of the vendor does: it is recorded, and the results it speaks of become due."""

import hashlib
from typing import Literal, Protocol

import structlog

from service.domain.ids import Account, SessionId
from service.domain.models import Received
from service.domain.ports import Wakeups

log = structlog.get_logger()

Outcome = Literal["accepted", "duplicate", "ignored"]


class VendorEventLike(Protocol):
    """What the rules need to know of an event; the eka room reads it from any of its shapes."""

    @property
    def session_id(self) -> str:
        """The session it names, empty if none."""
        ...

    @property
    def kind(self) -> str:
        """What happened."""
        ...

    @property
    def shape(self) -> str:
        """Which of the vendor's shapes it came in."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether it names a session and something that we understand."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether results may be there now."""
        ...


class WebhookStore(Protocol):
    """Rows of received webhooks."""

    async def receive(
        self,
        account: Account,
        *,
        session_id: str,
        kind: str,
        shape: str,
        body_sha256: bytes,
        body_bytes: int,
        is_ending: bool,
    ) -> Received:
        """Record it and make results due, in one statement."""
        ...


class WebhookReceiver:
    """Receives verified webhooks; when `receive` returns, what it did is committed."""

    def __init__(self, *, store: WebhookStore, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups

    async def receive(self, account: Account, event: VendorEventLike, body: bytes) -> Outcome:
        """Record the event. Only its hash is kept: the vendor may put patient data into it."""
        received = await self._store.receive(
            account,
            session_id=event.session_id,
            kind=event.kind,
            shape=event.shape,
            body_sha256=hashlib.sha256(body).digest(),
            body_bytes=len(body),
            is_ending=event.is_ending,
        )
        # A new completion of a session that ended badly has the vendor asked again.
        outcome: Outcome = "accepted" if received.is_first or received.due else "duplicate"
        if received.phase == "unknown" or not event.is_known:
            outcome = "ignored"
        if received.due:
            self._wakeups.results_due(SessionId(event.session_id))
        log.info(
            "webhook_received",
            account=account,
            session_id=event.session_id,
            kind=event.kind,
            shape=event.shape,
            outcome=outcome,
            before_end=received.phase == "early",
            due=received.due,
        )
        return outcome
