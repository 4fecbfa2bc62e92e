"""Receives the vendor's webhooks: records the event and makes the session's results due."""

import hashlib
from typing import Literal, Protocol

import structlog
from msgspec import Struct

from service.domain.ids import Account, SessionId
from service.domain.wakeups import Wakeups


class Received(Struct, frozen=True, kw_only=True):
    """The outcome of a webhook: its session's phase, whether it was new, how many fetches it made due.

    `session_id` is our id of the session that the event names by its id at the vendor; None if there is none.
    An event of a vendor's session that another one has replaced has the phase `unknown`, too.
    """

    session_id: SessionId | None
    phase: Literal["unknown", "early", "ended"]
    is_first: bool
    due: int


log = structlog.get_logger()

Outcome = Literal["accepted", "duplicate", "ignored"]


class VendorEventLike(Protocol):
    """An event as the domain needs it; service/eka parses it from any of the vendor's shapes."""

    @property
    def session_id(self) -> str:
        """The vendor's id of the event's session, or an empty text."""
        ...

    @property
    def kind(self) -> str:
        """The vendor's name of the event's kind."""
        ...

    @property
    def shape(self) -> str:
        """The name of the vendor's message shape."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether the event names a session and a kind that this service knows."""
        ...

    @property
    def is_ending(self) -> bool:
        """Whether the vendor may have results after this event."""
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
        """Record the event and make results due, in one statement."""
        ...


class WebhookReceiver:
    """Receives verified webhooks; when `receive` returns, its changes are committed."""

    def __init__(self, *, store: WebhookStore, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups

    async def receive(self, account: Account, event: VendorEventLike, body: bytes) -> Outcome:
        """Record the event with the hash of its body; the body itself may hold patient data."""
        received = await self._store.receive(
            account,
            session_id=event.session_id,
            kind=event.kind,
            shape=event.shape,
            body_sha256=hashlib.sha256(body).digest(),
            body_bytes=len(body),
            is_ending=event.is_ending,
        )
        # A repeated event counts as accepted if it made fetches due, as for a session that ended badly.
        outcome: Outcome = "accepted" if received.is_first or received.due else "duplicate"
        if received.phase == "unknown" or not event.is_known:
            outcome = "ignored"
        if received.due and received.session_id is not None:
            self._wakeups.results_due(received.session_id)
        log.info(
            "webhook_received",
            account=account,
            session_id=received.session_id or event.session_id,
            kind=event.kind,
            shape=event.shape,
            outcome=outcome,
            before_end=received.phase == "early",
            due=received.due,
        )
        return outcome
