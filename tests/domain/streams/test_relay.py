"""The relay by itself: in which order both sides are closed, and that its counts are exact."""

import asyncio

import pytest

from service.domain.streams.frames import Frame
from service.domain.streams.relay import CloseReason, Relay
from service.domain.streams.sides import ClientGone, Restarting, VendorGone
from tests.support.stream_sides import Side


class Pair:
    """A relay between two sides, running."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.client = Side("client", self.log)
        self.vendor = Side("vendor", self.log)
        self.relay = Relay(self.client, self.vendor)
        self.task = asyncio.create_task(self.relay.run())

    async def say(self, *frames: Frame | Exception) -> None:
        for frame in frames:
            self.client.coming.put_nowait(frame)
        for _ in range(10 * len(frames)):  # so many turns of the event loop: enough to take every frame
            await asyncio.sleep(0)

    async def close_reason(self, seconds: float = 5) -> CloseReason:
        async with asyncio.timeout(seconds):
            return await self.task


@pytest.fixture
async def pair() -> Pair:
    return Pair()


async def test_frames_pass_in_order_and_are_counted(pair: Pair) -> None:
    await pair.say(b"\x01\x02", b"\x03", '{"event":"mark"}')
    pair.vendor.coming.put_nowait("heard")
    await pair.say(ClientGone(1000))
    assert (await pair.close_reason()).cause == "client_closed"
    assert pair.vendor.taken == [b"\x01\x02", b"\x03", '{"event":"mark"}']
    assert pair.client.taken == ["heard"]
    assert (pair.relay.frames, pair.relay.bytes) == (3, 3 + 16)
    assert pair.vendor.closed == (1000,)


@pytest.mark.parametrize(("code", "passed_on"), [(1000, 1000), (4999, 4999), (1005, 1001), (1006, 1001)])
async def test_the_clients_code_is_passed_on_unless_no_frame_can_carry_it(
    pair: Pair, code: int, passed_on: int
) -> None:
    await pair.say(ClientGone(code))
    await pair.close_reason()
    assert pair.vendor.closed == (passed_on,)
    assert pair.client.closed is None


async def test_a_restart_is_told_to_the_client_first_with_the_exact_count(pair: Pair) -> None:
    await pair.say(b"1", b"2", b"3", Restarting())
    told = await pair.close_reason()
    assert (told.cause, told.code) == ("restarting", 1012)
    assert "after frame 3 of" in told.reason
    assert pair.log == ["client closed", "vendor closed"]


async def test_a_frame_that_waits_for_the_vendor_is_handed_over_before_the_count_is_told(pair: Pair) -> None:
    await pair.say(b"1")
    pair.vendor.may_take.clear()
    await pair.say(b"2")
    pair.relay.end(CloseReason("restarting", 1012))
    await asyncio.sleep(0)
    pair.vendor.may_take.set()
    told = await pair.close_reason()
    assert pair.vendor.taken == [b"1", b"2"]
    assert "after frame 2 of" in told.reason


async def test_a_frame_that_was_not_read_is_not_counted(pair: Pair) -> None:
    await pair.say(b"1")
    pair.relay.end(CloseReason("restarting", 1012))
    told = await pair.close_reason()
    pair.client.coming.put_nowait(b"2")
    assert "after frame 1 of" in told.reason
    assert pair.vendor.taken == [b"1"]


async def test_a_stop_waits_for_the_vendors_close_and_passes_on_what_comes_before(pair: Pair) -> None:
    await pair.say('{"event":"stop"}')
    pair.vendor.coming.put_nowait("last words")
    pair.vendor.coming.put_nowait(VendorGone(1000, "stored"))
    told = await pair.close_reason()
    assert told == CloseReason("stopped", 1000, "stored")
    assert pair.client.taken == ["last words"]
    assert pair.client.closed == (1000, "stored")


async def test_a_vendor_that_breaks_after_a_stop_is_not_taken_for_a_flush(pair: Pair) -> None:
    await pair.say(b"1", '{"event":"stop"}')
    pair.vendor.coming.put_nowait(VendorGone(1006))
    told = await pair.close_reason()
    assert (told.cause, told.code) == ("vendor_lost", 1014)
    assert "after frame 2" in told.reason


async def test_frames_on_their_way_pass_when_the_session_is_over(pair: Pair) -> None:
    await pair.say(b"1")
    pair.relay.end(CloseReason("session_over", 1000, "the session was ended"))
    await pair.say(b"2", b"3")
    told = await pair.close_reason()
    assert pair.vendor.taken == [b"1", b"2", b"3"]
    assert told == CloseReason("session_over", 1000, "the session was ended")
    assert pair.log == ["vendor closed", "client closed"]


async def test_a_client_that_never_stops_talking_does_not_keep_an_ended_session_open(pair: Pair) -> None:
    async def talk() -> None:
        while True:
            pair.client.coming.put_nowait(b"more")
            await asyncio.sleep(0.01)

    talking = asyncio.create_task(talk())
    pair.relay.end(CloseReason("session_over", 1000, "the session was ended"))
    told = await pair.close_reason(seconds=5)
    talking.cancel()
    assert told.code == 1000


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (1011, 1011), (4000, 4000), (1005, 1000)])
async def test_the_vendors_code_is_passed_on(pair: Pair, code: int, told: int) -> None:
    pair.vendor.coming.put_nowait(VendorGone(code, "why"))
    why = "why; closed by EkaScribe after frame 0"
    assert await pair.close_reason() == CloseReason("vendor_closed", told, why)
    assert pair.client.closed == (told, why)


async def test_a_reason_is_cut_to_what_a_close_frame_can_carry(pair: Pair) -> None:
    pair.vendor.coming.put_nowait(VendorGone(4000, "हाँ" * 60))
    told = await pair.close_reason()
    assert len(told.reason.encode()) <= 123
    assert told.reason.startswith("हाँहाँ")
    assert told.reason.endswith("after frame 0")


@pytest.mark.parametrize("side", ["client", "vendor"])
async def test_whatever_nobody_foresaw_leaves_no_connection_open(pair: Pair, side: str) -> None:
    broken = pair.client if side == "client" else pair.vendor
    broken.coming.put_nowait(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await pair.close_reason()
    assert pair.vendor.closed == (1001,)


async def test_a_client_s_own_1012_is_no_restart_of_ours(pair: Pair) -> None:
    await pair.say(ClientGone(1012))
    assert (await pair.close_reason()).cause == "client_closed"


@pytest.mark.parametrize("code", [1002, 1007, 1009])
async def test_what_the_server_refused_is_the_client_s_fault_and_not_the_vendor_s(
    pair: Pair, code: int
) -> None:
    await pair.say(b"1", ClientGone(code))
    told = await pair.close_reason()
    assert (told.cause, told.code) == ("bad_frame", code)
    assert pair.vendor.closed == (1000,)


async def test_the_first_who_asks_for_the_end_decides_why(pair: Pair) -> None:
    pair.relay.end(CloseReason("taken_over", 4409, "first"))
    pair.relay.end(CloseReason("session_over", 1000, "second"))
    assert (await pair.close_reason()).code == 4409


async def test_a_stalled_vendor_shows_since_when(pair: Pair) -> None:
    assert pair.relay.sending_since == 0
    pair.vendor.may_take.clear()
    await pair.say(b"1")
    assert 0 < pair.relay.sending_since <= asyncio.get_running_loop().time()
    pair.vendor.may_take.set()
    await pair.say(b"2", ClientGone(1000))
    await pair.close_reason()
    assert pair.relay.sending_since == 0


async def test_audio_that_needs_no_waiting_is_passed_on_at_once_and_counted(pair: Pair) -> None:
    await pair.say(b"1")
    assert pair.client.take(b"22")
    assert pair.vendor.taken == [b"1", b"22"]
    assert (pair.relay.frames, pair.relay.bytes, pair.relay.was_active) == (2, 3, True)
    await pair.say(ClientGone(1000))
    await pair.close_reason()


async def test_audio_never_passes_a_frame_that_waits_for_the_vendor(pair: Pair) -> None:
    await pair.say(b"1")
    pair.vendor.may_take.clear()
    assert not pair.client.take(b"2")  # a slow vendor: the pump has to wait with it
    await pair.say(b"2")
    pair.vendor.may_take.set()
    assert not pair.client.take(b"3")  # the pump has not handed over yet
    await pair.say(b"3", ClientGone(1000))
    await pair.close_reason()
    assert pair.vendor.taken == [b"1", b"2", b"3"]


async def test_no_audio_is_passed_on_once_the_count_was_told(pair: Pair) -> None:
    await pair.say(b"1")
    pair.relay.end(CloseReason("restarting", 1012))
    after: list[bool] = []
    pair.client.when_closed = lambda: after.append(pair.client.take(b"2"))
    told = await pair.close_reason()
    assert after == [False]
    assert "after frame 1 of" in told.reason
    assert pair.vendor.taken == [b"1"]


@pytest.mark.parametrize("cause", ["nothing else", "session_over", "stopped"])
async def test_what_is_cut_passes_nothing_on_whatever_it_waited_for(pair: Pair, cause: str) -> None:
    await pair.say(b"1")
    if cause == "session_over":
        pair.relay.end(CloseReason("session_over", 1000, "the session was ended"))
        await asyncio.sleep(0)
    elif cause == "stopped":
        await pair.say('{"event": "stop"}')
    taken = list(pair.vendor.taken)
    pair.relay.cut(CloseReason("session_erased", 4410, "the session was erased"))
    assert pair.log == ["vendor aborted"]  # before anything else has a turn
    assert not pair.client.take(b"2")
    pair.client.coming.put_nowait(b"3")
    pair.vendor.coming.put_nowait("heard")
    assert await pair.close_reason(1) == CloseReason("session_erased", 4410, "the session was erased")
    assert pair.vendor.taken == taken
    assert pair.client.taken == []
    assert pair.client.closed == (4410, "the session was erased")
    pair.relay.cut(CloseReason("session_erased", 4410, "again"))


async def test_a_client_that_is_slow_does_not_delay_the_cut(pair: Pair) -> None:
    pair.client.may_take.clear()
    pair.vendor.coming.put_nowait("heard")
    await pair.say(b"1")
    pair.relay.cut(CloseReason("session_erased", 4410, "the session was erased"))
    assert (await pair.close_reason(1)).cause == "session_erased"
    assert pair.client.taken == []
