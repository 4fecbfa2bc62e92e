"""A session lifecycle over fakes."""

from typing import Any

from service.domain.audio.handover import AudioHandover
from service.domain.audio.models import Audio, HeldChunk
from service.domain.ids import Lease, SessionId, VendorSessionId
from service.domain.sessions.lifecycle import SessionLifecycle
from service.domain.sessions.pending_calls import PendingCalls
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


class NoHeldAudio:
    """The domain's HeldAudioStore without any audio."""

    def __init__(self, store: MemorySessions) -> None:
        self._store = store

    async def next_held(self, session_id: SessionId, lease: Lease) -> HeldChunk | None:
        return None

    def open_held(self, chunk: HeldChunk) -> Audio:
        raise AssertionError("nothing is held")

    async def record_handed_over(self, chunk: HeldChunk, lease: Lease, *, is_stored: bool) -> bool:
        raise AssertionError("nothing is held")

    async def finish_handover(self, session_id: SessionId, lease: Lease) -> bool:
        self._store.recorded.append("handed_over")
        return True


def make_pending_calls(store: MemorySessions, vendor: Any, clock: TurnedClock) -> PendingCalls:
    """Return the worker's side of the pending calls; a failed session is recorded in `store`."""

    async def fail(session_id: SessionId, vendor_id: VendorSessionId, code: str) -> None:
        store.recorded.append("failed")
        store.error_code = code

    return PendingCalls(
        store=store,
        lifecycle=make_life(store, vendor, clock),
        vendor=vendor,
        handover=AudioHandover(store=NoHeldAudio(store), vendor=vendor),
        fail=fail,
        clock=clock,
    )


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
