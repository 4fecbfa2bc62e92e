"""A session lifecycle over fakes."""

from typing import Any

from service.domain.ids import SessionId
from service.domain.sessions.lifecycle import SessionLifecycle
from tests.support.fakes import MemorySessions
from tests.support.makers import TurnedClock


class Connections:
    """How often a stream is still found open; -1 is for ever."""

    def __init__(self, open_looks: int = 0) -> None:
        self.open_looks = open_looks
        self.looks = 0

    async def is_open(self, session_id: SessionId) -> bool:
        self.looks += 1
        return self.open_looks < 0 or self.looks <= self.open_looks


def make_life(
    store: MemorySessions, vendor: Any, clock: TurnedClock, streams: Connections | None = None
) -> SessionLifecycle:
    return SessionLifecycle(
        store=store,
        streams=streams or Connections(),
        vendor=vendor,
        clock=clock,
        reconcile_after_seconds=120,
    )
