"""Which streams a process ends by itself, and what it asks of the store while they are open."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import pytest
from msgspec import structs

from service.domain.errors import (
    NotFound,
    Overloaded,
    RateLimited,
    SessionEnded,
    SessionErased,
    SessionExpired,
    SessionNotReady,
    StoreUnavailable,
    StreamBusy,
    VendorRefused,
    VendorUnavailable,
    WrongUpload,
)
from service.domain.ids import DEFAULT_ACCOUNT, Account, Lease, SessionId, TenantId
from service.domain.streams.connections import Streams
from service.domain.streams.models import StreamEnd, StreamHeartbeat, StreamSession, StreamState
from service.domain.streams.sides import ClientGone
from service.domain.vendor_calls import CALLING_TENANT
from tests.support.held_streams import HeldInMemory, SpoolInMemory
from tests.support.makers import AT_VENDOR, SESSION, TENANT
from tests.support.stream_sides import Side

KEY = "capability"


class OneStream:
    """The domain's StreamStore for one session, in memory."""

    def __init__(self, **fields: Any) -> None:
        values: dict[str, Any] = {
            "id": SessionId(SESSION),
            "vendor_id": AT_VENDOR,
            "tenant_id": TenantId(TENANT),
            "account": DEFAULT_ACCOUNT,
            "status": "created",
            "upload": "stream",
            "is_created": True,
            "is_erased": False,
            "is_past": False,
            "vendor_url": "wss://vendor/stream",
        }
        self.session = StreamSession(**(values | fields))
        self.holder: Lease | None = None
        self.is_silent = False
        self.is_yielding = False
        self.is_away = False
        self.status = "created"
        self.beats: list[StreamHeartbeat] = []
        self.ends: list[StreamEnd] = []

    async def find(self, session_id: SessionId, capability: str) -> StreamSession | None:
        return self.session if capability == KEY else None

    async def claim(self, session_id: SessionId, lease: Lease, lease_seconds: float) -> bool:
        if self.holder is not None:
            return False
        self.holder = lease
        return True

    async def ask_to_yield(self, session_id: SessionId, silent_seconds: float) -> bool:
        self.is_yielding = self.is_yielding or self.is_silent
        return self.is_yielding

    async def announce_end(self, session_id: SessionId, lease: Lease) -> None:
        self.is_yielding = True

    async def read_states(self, session_ids: list[SessionId]) -> list[StreamState]:
        if self.is_away:
            raise StoreUnavailable("away")
        return [
            StreamState(
                session_id=each,
                lease=self.holder,
                is_yielding=self.is_yielding,
                status=self.status,
                is_erased=self.session.is_erased,
            )
            for each in session_ids
        ]

    async def renew_leases(self, beats: list[StreamHeartbeat], lease_seconds: float) -> None:
        self.beats += beats

    async def release(self, session_id: SessionId, lease: Lease, end: StreamEnd) -> None:
        self.ends.append(end)
        self.holder, self.is_yielding = None, False


class House:
    """Streams over one session, a client and a vendor in memory."""

    def __init__(self, **fields: Any) -> None:
        self.log: list[str] = []
        self.store = OneStream(**fields)
        self.client, self.vendor = Side("client", self.log), Side("vendor", self.log)
        self.refuses: Exception | None = None
        self.admitted: list[str] = []
        self.called_for: list[TenantId | None] = []
        self.is_too_much = False
        self.next_side = lambda: self.vendor
        self.held = HeldInMemory()
        self.streams = self.make_streams(self)

    def make_streams(self, other: House, **options: Any) -> Streams:
        return Streams(
            store=self.store,
            vendor=other,
            held=self.held,
            make_spool=SpoolInMemory,
            admit=other.admit,
            **options,
        )

    async def open(self, account: Account, session_id: SessionId, url: str) -> Any:
        assert url == "wss://vendor/stream"
        self.called_for.append(CALLING_TENANT.get())
        if self.refuses is not None:
            raise self.refuses
        return self.next_side()

    async def admit(self, tenant_id: str) -> None:
        self.admitted.append(tenant_id)
        if self.is_too_much:
            raise RateLimited("too many", retry_after_seconds=1)

    async def run(self) -> None:
        async with self.streams.opened(SessionId(SESSION), KEY) as stream:
            await stream.run(self.client)


async def until(condition: Any) -> None:
    deadline = monotonic() + 5
    while monotonic() < deadline:
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("still not so after 5 seconds")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"is_erased": True}, SessionErased),
        ({"upload": "chunked"}, WrongUpload),
        ({"is_created": False}, SessionNotReady),
        ({"status": "expired"}, SessionExpired),
        ({"is_past": True}, SessionExpired),
        ({"status": "processing"}, SessionEnded),
        ({"status": "completed", "is_past": True}, SessionEnded),
    ],
)
async def test_what_takes_no_stream(fields: dict[str, Any], error: type[Exception]) -> None:
    house = House(**fields)
    with pytest.raises(error):
        await house.run()
    assert house.store.holder is None


async def test_a_wrong_capability_finds_nothing() -> None:
    with pytest.raises(NotFound):
        async with House().streams.opened(SessionId(SESSION), "guess"):
            pass


async def test_a_tenant_that_opens_too_many_is_refused_before_the_vendor_is_asked() -> None:
    house = House()
    house.is_too_much = True
    with pytest.raises(RateLimited):
        await house.run()
    assert house.admitted == [TENANT]
    assert house.store.holder is None
    with pytest.raises(NotFound):
        async with house.streams.opened(SessionId(SESSION), "guess"):
            pass
    assert house.admitted == [TENANT]  # a guess counts for nobody


async def test_a_vendor_that_refuses_the_stream_frees_it() -> None:
    house = House()
    house.refuses = VendorRefused("no", status=403, vendor_code=None)
    with pytest.raises(VendorRefused):
        await house.run()
    assert house.store.holder is None
    assert [end.cause for end in house.store.ends] == ["vendor_unreachable"]
    assert house.called_for == [TENANT]  # the circuit breaker counts the failure for this tenant


@pytest.mark.parametrize("is_created", [True, False])
async def test_a_stream_begins_while_the_vendor_is_away(is_created: bool) -> None:
    house = House() if is_created else House(vendor_url=None)
    house.refuses = VendorUnavailable("away", sent=False)
    running = asyncio.create_task(house.run())
    house.client.coming.put_nowait(b"\0\0")
    await until(lambda: any(beat.bytes == 2 for beat in house.store.beats))
    house.store.session = structs.replace(house.store.session, vendor_url="wss://vendor/stream")
    house.refuses = None
    await until(lambda: house.vendor.taken == [b"\0\0"])
    house.client.coming.put_nowait(ClientGone(1000))
    await running
    assert house.held.pieces == {}
    assert [each.is_over for each in house.held.interruptions] == [False, True]


async def test_a_live_client_keeps_others_out_and_a_silent_one_gives_way() -> None:
    house, rival = House(), House()
    rival.streams = house.make_streams(rival)
    first = asyncio.create_task(house.run())
    await until(lambda: house.store.holder is not None)
    with pytest.raises(StreamBusy):
        await rival.run()
    assert not first.done()
    house.store.is_silent = True
    second = asyncio.create_task(rival.run())
    await first
    assert house.client.closed == (4409, "another client took this stream over")
    await until(lambda: rival.streams._open)
    house.store.is_silent = False
    rival.client.coming.put_nowait(ClientGone(1000))
    await second


async def test_a_connection_that_takes_nothing_for_half_a_minute_is_replaced() -> None:
    house = House()
    stalled, house.vendor = house.vendor, Side("second", house.log)
    stalled.may_take.clear()
    stalled.unconfirmed = 1
    sides = [stalled, house.vendor]
    house.next_side = lambda: sides.pop(0)
    running = asyncio.create_task(house.run())
    house.client.coming.put_nowait(b"\0\0")
    await until(lambda: any(s.relay and s.relay.sending_since for s in house.streams._open.values()))
    (stream,) = house.streams._open.values()
    assert stream.relay is not None
    stream.relay.sending_since -= 31
    await until(lambda: house.vendor.taken == [b"\0\0"])
    house.client.coming.put_nowait(ClientGone(1000))
    await asyncio.wait_for(running, 5)
    assert house.client.closed is None


async def test_the_store_being_away_ends_no_stream() -> None:
    house = House()
    running = asyncio.create_task(house.run())
    await until(lambda: house.streams._open)
    house.store.is_away = True
    house.client.coming.put_nowait(b"\0\0")
    await until(lambda: house.vendor.taken == [b"\0\0"])
    house.store.is_away, house.store.status = False, "processing"
    await running
    assert house.client.closed == (1000, "the session was ended")
    assert (house.store.ends[0].cause, house.store.ends[0].bytes) == ("session_over", 2)


async def test_a_session_that_is_erased_while_the_vendor_opens_is_not_streamed_to() -> None:
    house = House()

    async def open_late(*_: Any) -> Any:
        house.store.session = structs.replace(house.store.session, is_erased=True)
        return house.vendor

    house.open = open_late  # type: ignore[method-assign]
    with pytest.raises(SessionErased):
        await house.run()
    assert house.vendor.closed is not None
    assert house.store.holder is None


@pytest.mark.parametrize("status", ["expired", "cancelled"])
async def test_a_session_that_is_over_otherwise_says_so(status: str) -> None:
    house = House()
    running = asyncio.create_task(house.run())
    await until(lambda: house.streams._open)
    house.store.status = status
    await running
    assert house.client.closed == (4410, f"the session is {status}")


async def test_the_first_audio_is_told_at_once() -> None:
    house = House()
    running = asyncio.create_task(house.run())
    await until(lambda: len(house.store.beats) == 2)  # when it is open, and of all streams
    house.client.coming.put_nowait(b"\0\0")
    await until(lambda: any(beat.bytes == 2 for beat in house.store.beats))
    house.store.status = "processing"
    await running


async def test_one_tenant_leaves_streams_to_others() -> None:
    house = House()
    # Each of them is another session's; what they have in common is the tenant.
    house.store.claim = free_claim  # type: ignore[method-assign]
    streams = house.make_streams(house, max_streams=4)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(streams.opened(SessionId(SESSION), KEY))
        with pytest.raises(Overloaded):
            await stack.enter_async_context(streams.opened(SessionId(SESSION), KEY))
        own, house.store.session = (
            house.store.session,
            structs.replace(house.store.session, tenant_id=TenantId("ten_other")),
        )
        await stack.enter_async_context(streams.opened(SessionId(SESSION), KEY))
        with pytest.raises(Overloaded):  # now all are taken
            await stack.enter_async_context(streams.opened(SessionId(SESSION), KEY))
    house.store.session = own
    async with streams.opened(SessionId(SESSION), KEY):
        pass
    await streams.stop()


async def free_claim(session_id: SessionId, lease: Lease, lease_seconds: float) -> bool:
    return True
