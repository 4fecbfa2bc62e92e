"""Held parts of ended streams: sent on the vendor's stream, each byte once."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from msgspec import structs

from service.domain.errors import SessionEnded, VendorCallHeldBack, VendorUnavailable
from service.domain.ids import DEFAULT_ACCOUNT, Account, Lease, SessionId, TenantId, VendorSessionId
from service.domain.sessions.models import PendingCall
from service.domain.streams.frames import Frame, samples_of, wav_of
from service.domain.streams.late_replay import HeldPart, LateReplay
from tests.support.makers import AT_VENDOR, SESSION, TENANT, make_lease
from tests.support.stream_sides import Side

PENDING = PendingCall(
    session_id=SessionId(SESSION),
    vendor_id=AT_VENDOR,
    tenant_id=TenantId(TENANT),
    account=DEFAULT_ACCOUNT,
    call="end",
    lease=make_lease(),
    attempts=1,
    upload="stream",
    chunks=0,
)


class HangingSide(Side):
    """A vendor that accepts no frame after so many."""

    def __init__(self, hangs_after: int | None) -> None:
        super().__init__("vendor", [])
        self.hangs_after = hangs_after

    async def send(self, frame: Frame) -> None:
        if len(self.taken) == self.hangs_after:
            self.may_take.clear()
        await super().send(frame)


class Held:
    """The domain's HeldPartStore and StreamOpener in memory."""

    def __init__(self, *pieces: bytes, rate: int = 16_000, taken: int = 0, is_whole: bool = False) -> None:
        self.pieces = {number: wav_of(piece, rate) for number, piece in enumerate(pieces, 3)}
        self.part: HeldPart | None = HeldPart(
            vendor_id=AT_VENDOR,
            vendor_url="wss://vendor/stream",
            sequences=list(self.pieces),
            taken_bytes=taken,
            is_whole=is_whole,
        )
        self.sides: list[Side] = []
        self.breaks_after: int | None = None
        self.hangs_after: int | None = None
        self.is_cancelled_after: int | None = None

    async def read_part(self, session_id: SessionId, lease: Lease) -> HeldPart | None:
        is_cancelled = self.is_cancelled_after is not None and bool(self.sides)
        if is_cancelled and len(self.sides[-1].taken) >= (self.is_cancelled_after or 0):
            return None
        return self.part

    async def read_piece(self, session_id: SessionId, sequence: int) -> bytes:
        if self.breaks_after is not None and len(self.sides[-1].taken) >= self.breaks_after:
            self.sides[-1].break_with(1006, unconfirmed=1)
        return self.pieces[sequence]

    async def record_taken(self, session_id: SessionId, lease: Lease, taken_bytes: int) -> None:
        assert self.part is not None
        self.part = structs.replace(self.part, taken_bytes=taken_bytes)

    async def drop_part(self, session_id: SessionId, lease: Lease) -> None:
        self.part = None

    async def open(self, account: Account, session_id: VendorSessionId, url: str) -> Any:
        assert url == "wss://vendor/stream"
        self.sides.append(HangingSide(self.hangs_after))
        return self.sides[-1]

    async def replay(self) -> None:
        await LateReplay(store=self, vendor=self).replay(PENDING)


async def test_the_part_is_sent_from_where_the_vendor_was_and_dropped() -> None:
    pieces = [secrets.token_bytes(100_000), secrets.token_bytes(50_000)]
    held = Held(*pieces, taken=100_002)
    await held.replay()
    (side,) = held.sides
    assert b"".join(map(samples_of, side.taken)) == pieces[1][2:]
    assert side.closed == (1000,)
    assert held.part is None


async def test_another_rate_needs_envelopes() -> None:
    held = Held(b"1122", rate=8000)
    await held.replay()
    start, media = held.sides[0].taken
    assert json.loads(start)["start"]["mediaFormat"]["sampleRate"] == 8000
    assert samples_of(media) == b"1122"


async def test_a_replay_that_breaks_goes_on_behind_what_the_vendor_has() -> None:
    pieces = [secrets.token_bytes(70_000), secrets.token_bytes(70_000)]
    held = Held(*pieces)
    held.breaks_after = 3
    with pytest.raises(VendorUnavailable):
        await held.replay()
    assert held.part is not None
    assert held.part.taken_bytes == 64_000  # two frames of three
    held.breaks_after = None
    await held.replay()
    first = b"".join(map(samples_of, held.sides[0].taken))[:64_000]
    assert first + b"".join(map(samples_of, held.sides[1].taken)) == b"".join(pieces)


async def test_a_whole_recording_goes_elsewhere() -> None:
    held = Held(b"1122", is_whole=True)
    await held.replay()
    assert held.sides == []
    held.part = None
    await held.replay()
    assert held.sides == []


async def test_a_replay_that_takes_too_long_goes_on_where_it_was() -> None:
    pieces = [secrets.token_bytes(96_000), secrets.token_bytes(96_000)]
    held = Held(*pieces)
    held.hangs_after = 4
    with pytest.raises(VendorCallHeldBack):  # which counts as no try
        await LateReplay(store=held, vendor=held, seconds=0.05).replay(PENDING)
    assert held.part is not None
    assert held.part.taken_bytes > 0
    held.hangs_after = None
    taken = held.part.taken_bytes
    await held.replay()
    assert b"".join(map(samples_of, held.sides[1].taken)) == b"".join(pieces)[taken:]


async def test_a_replay_ends_when_its_session_is_cancelled_or_erased() -> None:
    held = Held(b"11" * 20_000, b"22" * 20_000)
    held.is_cancelled_after = 1
    with pytest.raises(SessionEnded):
        await held.replay()
    assert b"2" not in b"".join(map(samples_of, held.sides[0].taken))
