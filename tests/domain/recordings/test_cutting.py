"""A worker cuts a recording under the lease of its pending call, and lets go of it whatever happens."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from service.domain.audio.models import AudioFormat
from service.domain.errors import Overloaded, RecordingUnreadable
from service.domain.ids import DEFAULT_ACCOUNT, Lease, SessionId, VendorSessionId
from service.domain.recordings.cutting import RecordingCutter
from service.domain.recordings.models import CutChunk, RecordingFacts, StoredRecording
from service.domain.sessions.models import PendingCall
from service.eka.discovery import SEED_LIMITS
from tests.support.fakes import MemorySessions, ScriptedVendor
from tests.support.lifecycles import make_pending_calls
from tests.support.makers import SESSION, TENANT, TurnedClock, make_lease

CHUNK = CutChunk(
    sequence=0, start_seconds=0.0, seconds=1.0, format=AudioFormat("audio/wav", "wav"), data=b"audio"
)


class Uncut:
    """One recording that is not cut yet; what was recorded of it, in order."""

    def __init__(self, seconds: float | None = 9.0) -> None:
        self.seconds = seconds
        self.recorded: list[str] = []

    async def uncut(self, session_id: SessionId, lease: Lease) -> StoredRecording:
        return StoredRecording(
            session_id=session_id, tenant_id=TENANT, size=5, model="lite", seconds=self.seconds
        )

    async def read(self, recording: StoredRecording) -> AsyncIterator[bytes]:
        yield b"bytes"

    async def record_seconds(self, recording: StoredRecording, lease: Lease, seconds: float) -> bool:
        self.recorded.append(f"seconds {seconds}")
        return True

    async def delete_chunks(self, recording: StoredRecording, lease: Lease) -> bool:
        self.recorded.append("deleted")
        return True

    async def hold_chunk(self, recording: Any, lease: Lease, chunk: CutChunk, file_name: str) -> bool:
        self.recorded.append(file_name)
        return True

    async def record_cut(self, recording: StoredRecording, lease: Lease, chunks: int) -> bool:
        self.recorded.append(f"cut {chunks}")
        return True


class Reader:
    """Cuts one chunk, and then goes on as the test says."""

    def __init__(self, *, seconds: float = 9.0, error: Exception | None = None, hangs: bool = False) -> None:
        self.seconds, self.error, self.hangs = seconds, error, hangs
        self.cutting, self.may_end, self.closed = asyncio.Event(), asyncio.Event(), 0
        self.cuts, self.awaited_cuts = 0, 1

    async def inspect(self, recording: Any) -> RecordingFacts:
        return RecordingFacts(
            seconds=self.seconds, container="wav", codec="pcm", sample_rate=1, channels=1, is_copyable=True
        )

    async def cut(self, recording: Any, limits: Any) -> AsyncGenerator[CutChunk, None]:
        try:
            yield CHUNK
            self.cuts += 1
            if self.cuts == self.awaited_cuts:
                self.cutting.set()
            if self.error is not None:
                raise self.error
            if self.hangs:
                await self.may_end.wait()
        finally:
            self.closed += 1


class File(io.BytesIO):
    def finish(self) -> None:
        pass


class SeedLimits:
    async def limits(self) -> Any:
        return SEED_LIMITS


class Desk:
    """A worker's pending calls with one recording."""

    def __init__(self, uncut: Uncut, reader: Reader) -> None:
        self.sessions = MemorySessions()
        self.cutter = RecordingCutter(
            store=uncut, reader=reader, limits=SeedLimits(), cut_limits=lambda _: None, open_file=File
        )
        self.calls = make_pending_calls(self.sessions, ScriptedVendor(), TurnedClock(), self.cutter)
        self.calls.renew_seconds = 0.01

    async def process(self, attempts: int = 1) -> None:
        await self.calls.process(
            PendingCall(
                session_id=SESSION,
                vendor_id=VendorSessionId(SESSION),
                tenant_id=TENANT,
                account=DEFAULT_ACCOUNT,
                call="audio",
                lease=make_lease(),
                attempts=attempts,
                upload="recording",
                chunks=0,
                held_seconds=1.0,
            )
        )


async def test_a_cut_replaces_the_chunks_of_an_earlier_try_and_the_handover_follows() -> None:
    uncut = Uncut()
    desk = Desk(uncut, Reader())
    await desk.process()
    assert uncut.recorded == ["deleted", "audio_0.wav", "cut 1"]
    assert desk.sessions.recorded == ["handed_over"]


async def test_a_lost_lease_ends_the_cut_at_once() -> None:
    uncut, reader = Uncut(), Reader(hangs=True)
    desk = Desk(uncut, reader)
    desk.sessions.has_lease = False
    await desk.process()
    assert reader.closed == 1
    assert uncut.recorded == ["deleted", "audio_0.wav"]
    assert desk.sessions.recorded == ["postponed"]


async def test_a_worker_that_stops_ends_the_cut_and_releases_its_call() -> None:
    reader = Reader(hangs=True)
    desk = Desk(Uncut(), reader)
    working = asyncio.create_task(desk.process())
    await reader.cutting.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert (reader.closed, desk.sessions.recorded) == (1, ["postponed"])


async def test_a_recording_gives_its_call_back_while_others_are_cut() -> None:
    reader = Reader(hangs=True)
    reader.awaited_cuts = 2
    desk = Desk(Uncut(), reader)
    cuts = [asyncio.create_task(desk.process()) for _ in range(2)]
    async with asyncio.timeout(5):
        await reader.cutting.wait()
    assert desk.cutter.is_busy
    await desk.process()
    assert (desk.sessions.recorded, desk.sessions.postponed_seconds) == (["given_back"], [2.0])
    reader.may_end.set()
    await asyncio.gather(*cuts)
    assert desk.sessions.recorded == ["given_back", "handed_over", "handed_over"]


@pytest.mark.parametrize(
    ("error", "attempts", "recorded", "code"),
    [
        # It could be read when it came: the process that reads it may have crashed by chance.
        (RecordingUnreadable("no audio"), 2, ["postponed"], None),
        (RecordingUnreadable("no audio"), 3, ["failed"], "recording_unreadable"),
        (Overloaded("too many", retry_after_seconds=5.0), 1, ["postponed"], None),
        (OSError(28, "no space"), 1, ["postponed"], None),
    ],
)
async def test_what_follows_a_failure(
    error: Exception, attempts: int, recorded: list[str], code: str | None
) -> None:
    desk = Desk(Uncut(), Reader(error=error))
    await desk.process(attempts)
    assert (desk.sessions.recorded, desk.sessions.error_code) == (recorded, code)


@pytest.mark.parametrize(("seconds", "code"), [(600.0, None), (600.1, "recording_too_long")])
async def test_a_recording_that_came_in_pieces_is_inspected_first(seconds: float, code: str | None) -> None:
    uncut = Uncut(seconds=None)
    desk = Desk(uncut, Reader(seconds=seconds))
    await desk.process()
    assert desk.sessions.error_code == code
    assert uncut.recorded == ([] if code else [f"seconds {seconds}", "deleted", "audio_0.wav", "cut 1"])
