"""What a verified webhook is answered, and that workers are nudged only for what is committed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from service.domain.ids import DEFAULT_ACCOUNT, Account, SessionId
from service.domain.webhooks import Received, WebhookReceiver
from service.eka.webhook_events import parse_event
from tests.support.makers import SESSION

COMPLETED = b'{"event": "session.completed", "session_id": "ses_0123456789abcdef"}'
UNKNOWN_KIND = b'{"event": "session.rejoiced", "session_id": "ses_0123456789abcdef"}'
STARTED = b'{"event": "session.started", "session_id": "ses_0123456789abcdef"}'


class Desk:
    """A WebhookStore with one answer, and the Nudges that it must come before."""

    def __init__(self, received: Received | Exception) -> None:
        self.received = received
        self.stored: list[dict[str, Any]] = []
        self.nudged: list[SessionId] = []

    async def receive(self, account: Account, **event: Any) -> Received:
        assert self.nudged == []
        self.stored.append(event)
        if isinstance(self.received, Exception):
            raise self.received
        return self.received

    def results_due(self, session_id: SessionId) -> None:
        self.nudged.append(session_id)

    def deliveries_due(self, session_id: SessionId) -> None:
        raise AssertionError("no delivery is due by a webhook")


async def hear(desk: Desk, body: bytes) -> str:
    event = parse_event(body)
    assert event is not None
    return await WebhookReceiver(store=desk, wakeups=desk).receive(DEFAULT_ACCOUNT, event, body)


@pytest.mark.parametrize(
    ("body", "phase", "is_first", "due", "outcome"),
    [
        (COMPLETED, "ended", True, 2, "accepted"),
        (COMPLETED, "ended", False, 0, "duplicate"),
        (COMPLETED, "early", True, 0, "accepted"),
        (COMPLETED, "early", False, 0, "duplicate"),
        (COMPLETED, "unknown", True, 0, "ignored"),
        (COMPLETED, "unknown", False, 0, "ignored"),
        (UNKNOWN_KIND, "ended", True, 0, "ignored"),
        (UNKNOWN_KIND, "ended", False, 0, "ignored"),
        (STARTED, "ended", True, 0, "accepted"),
        (b"[]", "unknown", True, 0, "ignored"),
    ],
)
async def test_each_event_gets_the_answer_of_the_contract(body, phase, is_first, due, outcome):
    desk = Desk(Received(session_id=SESSION, phase=phase, is_first=is_first, due=due))
    assert await hear(desk, body) == outcome
    assert desk.nudged == ([SESSION] if due else [])


async def test_only_a_hash_of_the_body_is_kept():
    desk = Desk(Received(session_id=SESSION, phase="ended", is_first=True, due=1))
    await hear(desk, COMPLETED)
    (stored,) = desk.stored
    assert stored["body_sha256"] == hashlib.sha256(COMPLETED).digest()
    assert stored["body_bytes"] == len(COMPLETED)
    assert (stored["kind"], stored["shape"], stored["is_ending"]) == ("completed", "protocol", True)
    assert COMPLETED not in stored.values()


async def test_what_was_not_committed_nudges_nobody():
    desk = Desk(OSError("the database went away"))
    with pytest.raises(OSError, match="went away"):
        await hear(desk, COMPLETED)
    assert desk.nudged == []
