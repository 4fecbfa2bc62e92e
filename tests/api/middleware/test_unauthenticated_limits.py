"""Requests whose sender is not known yet keep nothing from those of known senders, however slow they are."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.api.middleware.unauthenticated_limits import UnauthenticatedLimit, UnauthenticatedPool
from service.domain.errors import BodyTimeout, BodyTooLarge, ClientDisconnected
from tests.support.api_calls import Wire, hook, problem, signature, until, v2_event, wire
from tests.support.bridge import Bridge, open_bridge

MEBIBYTE = 1024 * 1024
LOGIN = b"POST /connect-auth/v1/account/login HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n\r\n{"
WEBHOOK = b"POST /webhooks/eka HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n\r\n{"
FORM = (
    b"POST /voice/v1/uploads/ses_1 HTTP/1.1\r\nHost: test\r\nContent-Length: 2000000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)
RAW_FORM = (
    b"POST /voice/v1/uploads/ses_1 HTTP/1.1\r\nHost: test\r\nContent-Length: 2000000\r\n"
    b"Content-Type: audio/wav\r\n\r\nRIFF"
)


@pytest.fixture
async def narrow(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    """A bridge with low limits."""
    few = {"max_requests": 4, "max_uploads": 2, "max_spool_bytes": 3 * MEBIBYTE}
    async with open_bridge(database_url, redis_url, **few) as bridge:
        yield bridge


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def in_work(kind: str) -> float:
    return sample("ekabridge_requests_in_work", kind=kind)


async def begin(stack: AsyncExitStack, house: Bridge, beginning: bytes, count: int) -> list[Wire]:
    """Open so many connections that each send the beginning of a request, and no more."""
    opened = [await stack.enter_async_context(wire(house.url)) for _ in range(count)]
    for each in opened:
        await each.send(beginning)

    async def are_in() -> bool:
        return in_work("strangers") >= count

    await until(are_in)
    return opened


async def test_logins_that_never_end_keep_nobody_from_creating(narrow: Bridge) -> None:
    async with AsyncExitStack() as stack:
        await begin(stack, narrow, LOGIN, 20)
        assert in_work("calls") == 0
        assert (await narrow.create())["status"] == "created"
        key = narrow.api.headers["authorization"].removeprefix("Bearer ")
        login = {"client_id": narrow.tenant_id, "client_secret": key}
        assert (await narrow.api.post("/connect-auth/v1/account/login", json=login)).status_code == 200


@pytest.mark.parametrize("beginning", [FORM, RAW_FORM])
async def test_forms_without_a_token_keep_no_place_and_no_disk_from_uploads(
    narrow: Bridge, beginning: bytes
) -> None:
    session = await narrow.create()
    async with AsyncExitStack() as stack:
        if beginning == FORM:
            await begin(stack, narrow, beginning, 20)
        else:
            opened = [await stack.enter_async_context(wire(narrow.url)) for _ in range(20)]
            for each in opened:
                await each.send(beginning)
            for each in opened:  # nothing of it is kept: it is refused at its first bytes
                assert (await each.answer()).status == 403
        assert in_work("uploads") == 0
        assert sample("ekabridge_spool_bytes") == 0
        assert (await narrow.put(session["id"], 0)).status_code == 200


async def test_webhooks_that_never_end_keep_no_place_from_the_vendor_s(narrow: Bridge) -> None:
    ended = await narrow.dictate()
    async with AsyncExitStack() as stack:
        await begin(stack, narrow, WEBHOOK, 100)
        assert in_work("webhooks") == 0
        assert (await hook(narrow, v2_event(ended))).status_code == 200


async def test_a_call_takes_its_place_when_its_sender_is_known(narrow: Bridge) -> None:
    beginning = b"POST /v1/sessions HTTP/1.1\r\nHost: test\r\nContent-Length: 200\r\n"
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(wire(narrow.url)) for _ in range(20)]
        for each in opened:
            await each.send(beginning + b"Authorization: Bearer nobody\r\n\r\n{")
        for each in opened:
            assert (await each.answer()).status == 401
        known = await stack.enter_async_context(wire(narrow.url))
        key = narrow.api.headers["authorization"].encode()
        await known.send(beginning + b"Authorization: " + key + b"\r\n\r\n{")

        async def is_in() -> bool:
            return in_work("calls") == 1

        await until(is_in)


@pytest.mark.parametrize(
    ("beginning", "seconds"), [(LOGIN, 3.0), (WEBHOOK, 5.0), (FORM, 5.0)], ids=["login", "webhook", "form"]
)
async def test_what_drips_is_given_up_in_time(narrow: Bridge, beginning: bytes, seconds: float) -> None:
    async with wire(narrow.url) as client:
        started = time.monotonic()
        await client.send(beginning)

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.1)  # the pace is what is tested
                await client.send(b"a")

        dripping = asyncio.create_task(drip())
        try:
            answer = await client.answer()
        finally:
            dripping.cancel()
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert time.monotonic() - started < seconds + 0.6  # a busy machine is late


async def test_a_webhook_of_64_kilobytes_may_take_its_time_and_one_byte_more_is_too_much(
    narrow: Bridge,
) -> None:
    ended = await narrow.dictate()
    body = json.dumps(v2_event(ended)).encode().ljust(65_536)
    head = f"POST /webhooks/eka HTTP/1.1\r\nHost: test\r\nEka-Webhook-Signature: {signature(body)}\r\n"
    async with wire(narrow.url) as client:
        began = time.monotonic()
        await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for start in range(0, len(body), 8192):
            await client.send(body[start : start + 8192])
            await asyncio.sleep(0.3)  # the pace is what is tested: slow, and steady
        assert (await client.answer()).status == 200
        assert time.monotonic() - began >= 2.4
    problem(await hook(narrow, body + b" "), 413, "body_too_large")


async def test_the_setting_names_the_header_of_addresses(database_url: str, redis_url: str) -> None:
    """Of one address few wait at once: the oldest of it gives way, and no other address's."""
    settings = {"client_address_header": "x-forwarded-for"}
    async with open_bridge(database_url, redis_url, **settings) as house, AsyncExitStack() as stack:

        def from_address(address: str) -> bytes:
            return LOGIN.replace(b"\r\n\r\n", f"\r\nX-Forwarded-For: 9.9.9.9, {address}\r\n\r\n".encode())

        (other,) = await begin(stack, house, from_address("192.0.2.2"), 1)
        first, *_ = await begin(stack, house, from_address("192.0.2.1"), 8)
        before = sample("ekabridge_strangers_given_up_total", reason="share")
        started = time.monotonic()
        more = await stack.enter_async_context(wire(house.url))
        await more.send(from_address("192.0.2.1"))
        assert (await first.answer()).status == 408
        assert time.monotonic() - started < 1.5  # the time itself would be over in three seconds
        assert sample("ekabridge_strangers_given_up_total", reason="share") == before + 1
        assert (await other.answer()).status == 408


class Sender:
    """What a stranger sends: pieces, each after the word to go on."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.scope: dict[str, Any] = {"headers": []}
        self.go_on = asyncio.Semaphore(0)
        self._asked = 0

    async def is_awaited(self) -> bool:
        return self._asked > 0

    async def is_awaited_again(self) -> bool:
        return self._asked > 1

    async def receive(self) -> Any:
        self._asked += 1
        await self.go_on.acquire()
        if not self._pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._pieces.pop(0), "more_body": bool(self._pieces)}


def small_pool(**limits: Any) -> UnauthenticatedPool:
    values = {"max_requests": 2, "max_bytes": 8, "max_per_address": 2} | {
        "max_seconds": 60.0,
        "grace_seconds": 60.0,
    }
    return UnauthenticatedPool(UnauthenticatedLimit(**(values | limits)), address_header=None)


async def test_in_a_full_pool_the_oldest_gives_way() -> None:
    pool, senders = small_pool(), [Sender(b"a", b"b") for _ in range(3)]
    tasks = []
    for sender in senders:
        tasks.append(asyncio.create_task(pool.read(sender)))  # type: ignore[arg-type]
        await until(sender.is_awaited)
    with pytest.raises(BodyTimeout):
        await tasks[0]
    for sender in senders[1:]:
        sender.go_on.release()
        sender.go_on.release()
    assert [await tasks[1], await tasks[2]] == [b"ab", b"ab"]
    assert pool.waiting == 0


async def test_sizes_and_disconnections_are_told_apart() -> None:
    pool = small_pool()
    for pieces, error in (((b"12345", b"6789", b""), BodyTooLarge), ((), ClientDisconnected)):
        sender = Sender(*pieces)
        for _ in range(3):
            sender.go_on.release()
        with pytest.raises(error):
            await pool.read(sender)  # type: ignore[arg-type]
    announced = Sender(b"a")
    announced.scope["headers"].append((b"content-length", b"9"))
    with pytest.raises(BodyTooLarge):
        await pool.read(announced)  # type: ignore[arg-type]
    assert pool.waiting == 0


async def test_whoever_ends_the_process_is_not_taken_for_a_slow_sender() -> None:
    pool, sender = small_pool(), Sender(b"a")
    task = asyncio.create_task(pool.read(sender))  # type: ignore[arg-type]
    await until(sender.is_awaited)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.waiting == 0


async def test_bodies_together_have_a_bound_and_the_oldest_gives_way() -> None:
    pool, senders = small_pool(max_requests=9, max_total_bytes=10), [Sender(b"123456", b"") for _ in range(3)]
    tasks = []
    for sender in senders:
        tasks.append(asyncio.create_task(pool.read(sender)))  # type: ignore[arg-type]
        sender.go_on.release()
        await until(sender.is_awaited_again)
    for task in tasks[:2]:
        with pytest.raises(BodyTimeout):
            await task
    senders[2].go_on.release()
    assert await tasks[2] == b"123456"
    alone = small_pool(max_total_bytes=5)
    sender = Sender(b"123456", b"")
    sender.go_on.release()
    with pytest.raises(BodyTimeout):
        await alone.read(sender)  # type: ignore[arg-type]
    assert (pool.waiting, alone.waiting) == (0, 0)


@pytest.mark.parametrize("path", ["//connect-auth/v1/account/login", "/connect-auth/v1/account/login/"])
async def test_other_spellings_of_a_path_wait_in_the_same_pool(narrow: Bridge, path: str) -> None:
    async with AsyncExitStack() as stack:
        await begin(stack, narrow, LOGIN.replace(b"/connect-auth/v1/account/login", path.encode()), 20)
        assert in_work("calls") == 0
        assert (await narrow.create())["status"] == "created"
