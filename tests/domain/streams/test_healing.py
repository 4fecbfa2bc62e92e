"""Streams that heal: what a vendor gets, over several connections, and what is held when it stays away."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from service.domain.errors import VendorRefused, VendorUnavailable
from service.domain.ids import Lease, SessionId, TenantId
from service.domain.streams.audio_log import AudioLog
from service.domain.streams.frames import Frame, wav_of
from service.domain.streams.healing import HealingRule, HealingStream
from service.domain.streams.holding import EarlierAudio, StreamHold
from service.domain.streams.relay import CloseReason, Relay
from service.domain.streams.sides import ClientGone, VendorGone
from tests.support.held_streams import HeldInMemory, SpoolInMemory
from tests.support.makers import SESSION, TENANT, make_lease
from tests.support.stream_sides import Side

RULE = HealingRule(grace=0.02, waits=(0.01,), stop=0.3, end=1.0, store_wait=0.01)
STOP = '{"event": "stop"}'


async def until(condition: Callable[[], Any]) -> None:
    deadline = monotonic() + 5
    while not condition():
        assert monotonic() < deadline, "still not so after 5 seconds"
        await asyncio.sleep(0.002)


class Stage:
    """A relay between a client and a vendor that breaks and comes back as the test says."""

    def __init__(self, *, is_away: bool = False, rule: HealingRule = RULE, **options: Any) -> None:
        self.log: list[str] = []
        self.client = Side("client", self.log)
        self.vendors = [] if is_away else [Side("vendor", self.log)]
        self.held = options.pop("held", None) or HeldInMemory()
        self.spool = options.pop("spool", None) or SpoolInMemory()
        self.is_away = is_away
        self.refusal: Exception = VendorUnavailable("away", sent=False)
        self.tries = 0
        keeps_all = options.pop("keeps_all", False)
        hold = StreamHold(self.held, SessionId(SESSION), TenantId(TENANT), Lease(make_lease()))
        self.stream = HealingStream(
            session_id=SessionId(SESSION),
            connect=self.connect,
            first=None if is_away else self.vendor,
            hold=hold,
            make_log=lambda has_texts: AudioLog(self.spool, has_texts=has_texts),
            earlier=self.held.earlier,
            rule=rule,
            keeps_all=keeps_all,
        )
        self.relay = Relay(self.client, self.stream)
        self.task = asyncio.create_task(self.relay.run())

    @property
    def vendor(self) -> Side:
        """The vendor's present connection."""
        return self.vendors[-1]

    @property
    def taken(self) -> list[Frame]:
        return [frame for vendor in self.vendors for frame in vendor.taken]

    async def connect(self) -> Side:
        self.tries += 1
        if self.is_away:
            raise self.refusal
        self.vendors.append(Side("vendor", self.log))
        return self.vendor

    async def say(self, *frames: Frame) -> None:
        for frame in frames:
            self.client.coming.put_nowait(frame)
        goal = self.relay.frames + len(frames)
        await until(lambda: self.relay.frames >= goal)

    def break_vendor(self, code: int = 1006, *, unconfirmed: int = 0, stays_away: bool = True) -> None:
        self.is_away = stays_away
        self.vendor.break_with(code, unconfirmed=unconfirmed)

    async def close(self, seconds: float = 5) -> CloseReason:
        """The client closes; return how the connection ended."""
        self.client.coming.put_nowait(ClientGone(1000))
        async with asyncio.timeout(seconds):
            return await self.task


def bytes_of(frames: list[Frame]) -> bytes:
    return b"".join(frame for frame in frames if isinstance(frame, bytes))


def frames_of(count: int, size: int = 3200) -> list[bytes]:
    return [secrets.token_bytes(size) for _ in range(count)]


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013])
async def test_a_vendor_that_breaks_gets_every_byte_once_and_in_order(code: int) -> None:
    stage = Stage()
    frames = frames_of(60)
    await stage.say(*frames[:20])
    stage.break_vendor(code, unconfirmed=7)
    await until(lambda: stage.tries >= 3)
    await stage.say(*frames[20:40])
    stage.is_away = False
    await until(lambda: len(stage.vendors) == 2)
    await stage.say(*frames[40:])
    assert (await stage.close()).cause == "client_closed"
    first, second = (bytes_of(vendor.taken) for vendor in stage.vendors)
    assert first == b"".join(frames[:20])
    assert second == b"".join(frames[13:])
    assert (stage.relay.frames, stage.client.closed) == (60, None)
    assert stage.held.pieces == {}
    over = stage.held.interruptions[-1]
    assert (over.is_over, over.held_frames, over.cause) == (True, 20, f"vendor_closed_{code}")
    assert over.replayed_bytes == 27 * 3200


async def test_frames_go_the_fast_way_before_and_after() -> None:
    stage = Stage()
    await stage.say(b"11")
    assert stage.client.take(b"22")
    stage.break_vendor()
    await until(lambda: stage.tries)
    assert not stage.client.take(b"33")
    stage.is_away = False
    await until(lambda: len(stage.vendors) == 2 and stage.client.take(b"44"))
    await stage.close()
    assert stage.taken == [b"11", b"22", b"44"]


async def test_the_vendors_messages_flow_on_after_the_reconnect() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.vendor.coming.put_nowait("one")
    await until(lambda: stage.client.taken == ["one"])
    stage.break_vendor(stays_away=False)
    await until(lambda: len(stage.vendors) == 2)
    stage.vendor.coming.put_nowait("two")
    await until(lambda: stage.client.taken == ["one", "two"])
    await stage.close()


async def test_a_break_that_is_over_at_once_writes_no_audio_to_the_store() -> None:
    stage = Stage()
    await stage.say(*frames_of(3))
    held: list[int] = []
    hold_piece = stage.held.hold_piece

    async def count(piece: Any) -> bool:
        held.append(piece.sequence)
        return await hold_piece(piece)

    stage.held.hold_piece = count  # type: ignore[method-assign]
    stage.break_vendor(stays_away=False)
    await until(lambda: stage.held.interruptions)
    await stage.close()
    assert held == []
    assert [each.is_over for each in stage.held.interruptions] == [True]


async def test_a_replay_that_breaks_goes_on_where_the_vendor_was() -> None:
    stage = Stage()
    frames = frames_of(200)
    await stage.say(*frames[:1])
    stage.break_vendor()
    await stage.say(*frames[1:])
    stage.is_away = False
    await until(lambda: len(stage.vendors) == 2)
    second = stage.vendor
    await until(lambda: second.taken)
    second.break_with(1006, unconfirmed=1)
    await until(lambda: len(stage.vendors) == 3)
    last = frames_of(1)
    await stage.say(*last)
    await stage.close()
    expected = b"".join(frames + last)
    received = bytes_of(stage.vendors[0].taken)
    lost = len(second.taken[-1]) if second.taken else 0
    received += bytes_of(second.taken)[: len(bytes_of(second.taken)) - lost] + bytes_of(stage.vendor.taken)
    assert received == expected


async def test_a_vendor_that_stays_away_leaves_the_whole_dictation_in_the_store_if_all_is_kept() -> None:
    stage = Stage(keeps_all=True)
    frames = frames_of(500)  # 50 seconds
    await stage.say(*frames[:300])
    stage.break_vendor()
    await until(lambda: stage.held.interruptions)
    await stage.say(*frames[300:])
    assert (await stage.close()).cause == "client_closed"
    assert stage.held.samples == b"".join(frames)
    assert sorted(stage.held.pieces) == [0, 1, 2, 3]
    assert max(map(len, stage.held.pieces.values())) <= 640_044
    assert stage.held.recorded == (300 * 3200, True)
    assert [each.is_over for each in stage.held.interruptions] == [False]
    assert stage.spool.data == b""


async def test_a_vendor_that_refuses_the_stream_for_good_is_not_asked_again() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.refusal = VendorRefused("no such stream", status=404, vendor_code=None)
    stage.break_vendor()
    await until(lambda: stage.held.interruptions)
    await stage.say(b"22")
    assert stage.tries == 1
    await stage.close()
    assert stage.held.samples == b"22"
    assert stage.held.recorded == (0, False)


@pytest.mark.parametrize("is_created_late", [False, True])
async def test_a_stream_that_begins_without_the_vendor_is_held_from_its_start(is_created_late: bool) -> None:
    stage = Stage(is_away=True)
    await stage.say(b"11", b"22")
    await until(lambda: stage.held.pieces)
    if is_created_late:
        stage.is_away = False
        await until(lambda: stage.vendors and stage.vendor.taken)
    await stage.close()
    assert stage.taken == ([b"1122"] if is_created_late else [])
    assert stage.held.samples == (b"" if is_created_late else b"1122")


def envelope(samples: bytes) -> str:
    return json.dumps({"event": "media", "media": {"payload": base64.b64encode(samples).decode()}})


START = '{"event":"start", "start": {"mediaFormat": {"sampleRate": 8000}}}'


async def test_envelopes_are_sent_again_unchanged_after_their_start() -> None:
    stage = Stage()
    texts = [START, envelope(b"11"), '{"event": "mark"}', envelope(b"22"), envelope(b"33")]
    await stage.say(*texts[:4])
    stage.break_vendor(unconfirmed=2)
    await stage.say(*texts[4:])
    stage.is_away = False
    await until(lambda: len(stage.vendors) == 2)
    await stage.say(envelope(b"44"))
    await stage.close()
    assert stage.vendors[0].taken == texts[:4]
    assert stage.vendors[1].taken == [START, *texts[2:], envelope(b"44")]


async def test_held_envelopes_become_wav_files_of_their_rate() -> None:
    stage = Stage(is_away=True)
    await stage.say(START, envelope(b"11"), envelope(b"22"))
    await stage.close()
    assert stage.held.pieces == {0: wav_of(b"1122", 8000)}


async def test_a_stop_waits_for_a_vendor_that_comes_back_in_time() -> None:
    stage = Stage()
    await stage.say(START, envelope(b"11"))
    stage.break_vendor(unconfirmed=1)
    await stage.say(STOP)
    stage.is_away = False
    await until(lambda: len(stage.vendors) == 2 and STOP in stage.vendor.taken)
    stage.vendor.coming.put_nowait(VendorGone(1000, "stored"))
    assert await stage.task == CloseReason("stopped", 1000, "stored")
    assert stage.vendor.taken == [START, envelope(b"11"), STOP]
    assert stage.held.pieces == {}


async def test_a_stop_is_confirmed_without_the_vendor_once_all_audio_is_held() -> None:
    stage = Stage()
    await stage.say(START, envelope(b"11"))
    stage.break_vendor(unconfirmed=1)
    await stage.say(STOP)
    assert await stage.task == CloseReason("stopped", 1000)
    assert stage.held.samples == b"11"
    assert stage.client.closed == (1000, "")


async def test_a_vendor_that_breaks_after_a_stop_is_asked_to_stop_again() -> None:
    stage = Stage()
    await stage.say(START, envelope(b"11"), STOP)
    stage.break_vendor(unconfirmed=2, stays_away=False)
    await until(lambda: len(stage.vendors) == 2 and STOP in stage.vendor.taken)
    stage.vendor.coming.put_nowait(VendorGone(1000))
    assert (await stage.task).cause == "stopped"
    assert stage.vendor.taken == [START, envelope(b"11"), STOP]


async def test_a_verdict_of_the_vendor_still_reaches_the_client() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.vendor.break_with(4000)
    told = await stage.task
    assert (told.cause, told.code) == ("vendor_closed", 4000)
    assert stage.held.pieces == {}


async def test_a_close_that_the_vendor_does_not_answer_heals_first() -> None:
    stage = Stage()
    await stage.say(b"11", b"22")
    first = stage.vendor
    first.when_closed = lambda: first.break_with(1006, unconfirmed=1)
    await stage.close()
    assert stage.taken == [b"11", b"22", b"22"]
    assert stage.held.pieces == {}


async def test_an_ended_session_holds_what_the_vendor_lacks() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.break_vendor(unconfirmed=1)
    await stage.say(b"22")
    stage.relay.end(CloseReason("session_over", 1000, "the session was ended"))
    assert (await stage.task).code == 1000
    assert stage.held.samples == b"1122"
    assert stage.held.recorded == (0, True)
    assert stage.log == ["client closed"]


async def test_audio_held_of_an_earlier_connection_goes_first() -> None:
    held = HeldInMemory()
    held.pieces = {2: wav_of(b"aabb", 16000), 3: wav_of(b"cc", 16000)}
    held.earlier = EarlierAudio(sequences=[2, 3], taken_bytes=0, is_whole=False)
    stage = Stage(held=held)
    await stage.say(b"dd")
    await until(lambda: not held.pieces)
    await stage.say(b"ee")
    await stage.close()
    assert bytes_of(stage.taken) == b"aabbccddee"

    held.pieces = {0: wav_of(b"aabb", 16000)}
    held.earlier = EarlierAudio(sequences=[0], taken_bytes=4, is_whole=True)
    stage = Stage(held=held, is_away=True)
    await stage.say(b"cc")
    await stage.close()
    assert held.samples == b"aabbcc"
    assert held.recorded == (4, True)


async def test_memory_is_bounded_while_the_vendor_is_away_for_minutes() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.break_vendor(unconfirmed=1)
    await until(lambda: stage.held.interruptions)
    frames = frames_of(3000)  # five minutes
    for start in range(0, len(frames), 100):
        await stage.say(*frames[start : start + 100])
        log = stage.stream._backlog.log
        assert log is not None
        assert sum(map(len, log._memory)) <= 131_072 + 3200
    assert len(stage.held.pieces) >= 17
    await stage.close()
    assert stage.held.samples == b"11" + b"".join(frames)


@pytest.mark.parametrize("what", ["store", "disk"])
async def test_a_stream_for_which_there_is_no_room_is_closed_with_its_count(what: str) -> None:
    stage = Stage(spool=SpoolInMemory(700_000)) if what == "disk" else Stage()
    await stage.say(b"11")
    if what == "store":
        stage.held.room = 1_500_000
    stage.break_vendor(unconfirmed=1)
    await until(lambda: stage.held.interruptions)
    for frame in frames_of(1000):
        stage.client.coming.put_nowait(frame)
    told = await asyncio.wait_for(stage.task, 10)
    assert (told.cause, told.code) == ("hold_full", 1013)
    assert f"after frame {stage.relay.frames}" in told.reason
    assert len(stage.held.samples) == 2 + (stage.relay.frames - 1) * 3200


async def test_a_full_disk_costs_a_healthy_stream_its_beginning_only() -> None:
    stage = Stage(spool=SpoolInMemory(300_000), keeps_all=True)
    frames = frames_of(300)
    await stage.say(*frames)
    stage.break_vendor(unconfirmed=1)
    await until(lambda: stage.held.pieces)
    await stage.say(b"11")
    await stage.close()
    assert stage.held.recorded is not None
    taken, is_whole = stage.held.recorded
    assert not is_whole
    assert (b"".join(frames) + b"11").endswith(stage.held.samples)
    assert len(stage.held.samples) == taken + 3200 + 2


async def test_what_the_vendor_confirms_is_kept_no_longer() -> None:
    stage = Stage()
    await stage.say(b"11", b"22", b"33")
    stage.vendor.confirm(2)
    assert list(stage.stream._backlog.recent) == [b"33"]
    stage.break_vendor(unconfirmed=1)
    await stage.close()
    assert stage.held.samples == b"33"
    assert stage.held.recorded == (0, False)


async def test_held_audio_that_could_not_be_dropped_is_dropped_before_more_is_held() -> None:
    stage = Stage()
    await stage.say(b"11", b"22", b"33")
    stage.break_vendor(unconfirmed=3)
    await until(lambda: stage.held.pieces)
    stage.held.is_away, stage.is_away = True, False
    await until(lambda: len(stage.vendors) == 2 and not stage.stream._hold._stored)
    stage.held.is_away = False
    await stage.say(b"44")
    stage.break_vendor(unconfirmed=1)
    await stage.close()
    assert bytes_of(stage.taken) == b"112233" * 2 + b"44"
    assert stage.held.samples == b"44"


async def test_a_frame_that_waits_for_the_store_while_the_vendor_comes_back_is_not_lost() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.break_vendor(unconfirmed=1)
    await until(lambda: stage.stream._hold.is_holding)
    may_write, hold_piece = asyncio.Event(), stage.held.hold_piece

    async def wait(piece: Any) -> bool:
        await may_write.wait()
        return await hold_piece(piece)

    stage.held.hold_piece = wait  # type: ignore[method-assign]
    frames = frames_of(340)  # two pieces: the first one is written while the vendor comes back
    for frame in frames:
        stage.client.coming.put_nowait(frame)
    await until(stage.stream._hold._lock.locked)
    stage.is_away = False
    await until(lambda: stage.stream._is_live)
    may_write.set()
    await until(lambda: stage.relay.frames == 341)
    await stage.say(b"22")
    await stage.close()
    assert bytes_of(stage.taken) == b"11" + b"11" + b"".join(frames) + b"22"
    assert stage.held.pieces == {}


async def test_a_store_that_is_away_too_loses_nothing() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.held.is_away = True
    stage.break_vendor(unconfirmed=1)
    await until(lambda: stage.tries >= 2)
    await stage.say(*[b"22"] * 5)
    stage.held.is_away = False
    await stage.close()
    assert stage.held.samples == b"11" + b"22" * 5


async def test_an_erasure_ends_every_try() -> None:
    stage = Stage()
    await stage.say(b"11")
    stage.break_vendor()
    await until(lambda: stage.held.interruptions)
    stage.held.pieces = {}
    stage.relay.cut(CloseReason("session_erased", 4410, "the session was erased"))
    assert (await stage.task).code == 4410
    tries = stage.tries
    await asyncio.sleep(0.05)
    assert (stage.tries, stage.held.pieces, stage.spool.data) == (tries, {}, b"")


@pytest.mark.parametrize("room", [600_000, 1_200_000, 1_700_000])
async def test_without_room_for_all_the_held_part_still_has_what_the_vendor_lacks(room: int) -> None:
    stage = Stage(keeps_all=True)
    frames = frames_of(80, 32_768)  # five pieces
    await stage.say(*frames)
    stage.held.room = room
    stage.break_vendor(unconfirmed=4)
    await stage.close()
    assert stage.held.recorded is not None
    taken, is_whole = stage.held.recorded
    assert not is_whole
    # A replay skips what the vendor took, and sends the rest.
    assert stage.held.samples[taken:] == b"".join(frames[-4:])
    sequences = sorted(stage.held.pieces)
    assert sequences == list(range(sequences[0], sequences[-1] + 1)), (
        "a later piece would take a number between"
    )


class SlowToRecord(HeldInMemory):
    """A store that records no resumption until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_record = asyncio.Event(), asyncio.Event()

    async def record_interruption(self, *arguments: Any) -> None:
        if arguments[-1].is_over:
            self.asked.set()
            await self.may_record.wait()
        await super().record_interruption(*arguments)


async def test_a_vendor_that_breaks_again_while_its_return_is_recorded_is_connected_again() -> None:
    held = SlowToRecord()
    stage = Stage(held=held)
    await stage.say(b"11")
    stage.break_vendor(stays_away=False)
    await held.asked.wait()
    stage.break_vendor(unconfirmed=0, stays_away=False)
    held.may_record.set()
    await until(lambda: len(stage.vendors) == 3)
    await stage.say(b"22")
    await until(lambda: b"22" in stage.vendor.taken)
    await stage.close()
    assert held.pieces == {}
