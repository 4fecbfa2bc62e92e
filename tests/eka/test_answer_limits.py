"""An answer that never ends is given up by its size, however it goes on: by both libraries, for all peers."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from service.concurrency.memory_budget import MemoryBudget
from service.domain.errors import VendorFailure, VendorTimeout, VendorUnreachable
from service.eka.audio_client import AudioClient
from service.eka.http_exchange import SMALL_ANSWER_BYTES, exchange, make_http_client
from service.forwarding.ssrf_guard import GuardedBackend, GuardedTransport
from tests.support.raw_peer import Line, Sound, header, open_peer, tidy_loop, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# What comes first, and what then comes without end.
ENDLESS = {
    "100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500),
    "103": (b"", HINTS * 500),
    "100 with a bare line feed": (b"", b"HTTP/1.1 100 Continue\n\n" * 500),
    "header fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: aaaaaaaaaaaaaaaa\r\n" * 500),
    "content": (b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 16_384),
    "chunks of one byte": (CHUNKED, b"1\r\na\r\n" * 2000),
    "extensions of chunks": (CHUNKED, (b"1;" + b"e" * 2000 + b"\r\na\r\n") * 8),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"X-A: aaaaaaaaaaaaaaaa\r\n" * 500),
}
# A peer that sends as fast as it can is given up long before the time of a call is over.
QUICKLY = 10.0  # half of the time-out that an endless answer would run into


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    async with tidy_loop():
        yield


def endless(first: bytes, more: bytes) -> Callable[[Line], Awaitable[None]]:
    async def talk(line: Line) -> None:
        head = await line.head()
        with suppress(ConnectionError):
            await line.reader.readexactly(int(header(head, "content-length") or 0))
            await line.say(first)
            while True:
                await line.say(more)

    return talk


@pytest.mark.parametrize("kind", ENDLESS)
async def test_of_the_vendor(kind: str) -> None:
    async with open_peer(endless(*ENDLESS[kind])) as peer, make_http_client() as http:
        started = time.monotonic()
        with pytest.raises(VendorUnreachable) as failed:
            await exchange(http, "GET", peer.url + "/", operation="end", headers={})
        assert not isinstance(failed.value, VendorTimeout)
        assert failed.value.sent
        assert time.monotonic() - started < QUICKLY


@pytest.mark.parametrize("kind", ENDLESS)
async def test_of_the_vendor_to_an_upload(kind: str) -> None:
    async with open_peer(endless(*ENDLESS[kind])) as peer, AudioClient(peer.url) as wire:
        started = time.monotonic()
        with pytest.raises(VendorUnreachable) as failed:
            await upload(wire, peer, Sound())
        assert not isinstance(failed.value, VendorTimeout)
        assert time.monotonic() - started < QUICKLY


async def test_of_a_kept_connection_on_which_nothing_was_asked() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        with suppress(ConnectionError):
            while True:
                await line.say(HINTS * 500)

    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        assert await upload(wire, peer, Sound()) == 200
        async with asyncio.timeout(QUICKLY):
            await peer.lines[0].ended.wait()


@pytest.mark.parametrize("kind", [kind for kind in ENDLESS if kind != "content"])
async def test_of_a_destination(kind: str) -> None:
    backend = GuardedBackend(allow_private=True)
    async with (
        open_peer(endless(*ENDLESS[kind])) as peer,
        httpx2.AsyncClient(transport=GuardedTransport(backend), timeout=20) as http,
    ):
        started = time.monotonic()
        with pytest.raises(httpx2.HTTPError):
            await http.post(peer.url, content=b"{}")
        assert time.monotonic() - started < QUICKLY


async def test_a_few_hints_before_an_answer_are_no_matter() -> None:
    async def talk(line: Line) -> None:
        while (await line.request())[0]:
            await line.say(HINTS * 3, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with open_peer(talk) as peer, make_http_client() as http, AudioClient(peer.url) as wire:
        for _ in range(3):
            answer = await exchange(http, "GET", peer.url + "/", operation="end", headers={})
            assert answer.body == b"{}"
            assert await upload(wire, peer, Sound()) == 200


def saying(content: bytes, *fields: str) -> Callable[[Line], Awaitable[None]]:
    async def talk(line: Line) -> None:
        while (await line.request())[0]:
            head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *fields, "", ""])
            with suppress(ConnectionError):
                await line.say(head.encode(), content)

    return talk


@pytest.mark.parametrize("fields", [(), ("Content-Encoding: gzip",), ("Content-Encoding: GZIP",)])
async def test_an_answer_is_bounded_by_what_it_holds(fields: tuple[str, ...]) -> None:
    for size, is_taken in ((SMALL_ANSWER_BYTES, True), (SMALL_ANSWER_BYTES + 1, False)):
        content = b"a" * size
        sent = gzip.compress(content) if fields else content
        async with open_peer(saying(sent, *fields)) as peer, make_http_client() as http:
            asked = exchange(http, "GET", peer.url + "/", operation="end", headers={})
            if is_taken:
                assert (await asked).body == content
            else:
                with pytest.raises(VendorFailure):
                    await asked
        async with open_peer(saying(sent, *fields)) as peer, AudioClient(peer.url) as wire:
            sending = wire.send(peer.url + "/", {"content-length": "5"}, Sound())
            if is_taken:
                assert (await sending).body == content
            else:
                with pytest.raises(VendorFailure):
                    await sending


async def test_a_few_bytes_that_unfold_to_gigabytes_take_no_memory() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    async with open_peer(saying(bomb, "Content-Encoding: gzip")) as peer, make_http_client() as http:
        tracemalloc.start()
        with pytest.raises(VendorFailure):
            await exchange(http, "GET", peer.url + "/", operation="end", headers={})
        async with AudioClient(peer.url) as wire:
            with pytest.raises(VendorFailure):
                await wire.send(peer.url + "/", {"content-length": "5"}, Sound())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_what_was_not_asked_for_is_not_unfolded(encoding: str) -> None:
    async with (
        open_peer(saying(b"{}", f"Content-Encoding: {encoding}")) as peer,
        make_http_client() as http,
        AudioClient(peer.url) as wire,
    ):
        with pytest.raises(VendorFailure):
            await exchange(http, "GET", peer.url + "/", operation="end", headers={})
        with pytest.raises(VendorFailure):
            await wire.send(peer.url + "/", {"content-length": "5"}, Sound())


async def test_large_answers_are_counted_until_they_are_forgotten() -> None:
    memory = MemoryBudget(5_000_000, patience_seconds=60)
    content = b"a" * 600_000
    results: dict[str, Any] = {"operation": "get", "headers": {}, "max_bytes": 1_000_000}
    async with open_peer(saying(content)) as peer, make_http_client(memory=memory) as http:
        first = await exchange(http, "GET", peer.url + "/", **results)
        assert memory.used_bytes == 5 * 600_000  # with what will be decoded from it
        second = asyncio.create_task(exchange(http, "GET", peer.url + "/", **results))
        while not memory.waiting:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        assert not second.done()
        del first
        size = len((await second).body)
        assert size == 600_000
        del second
        await asyncio.sleep(0)  # the loop, too, forgets what it has just woken us for
        assert memory.used_bytes == 0


async def test_an_answer_of_unknown_length_is_counted_as_the_longest() -> None:
    memory = MemoryBudget(5_000_000, patience_seconds=60)
    results: dict[str, Any] = {"operation": "get", "headers": {}, "max_bytes": 900_000}
    async with (
        open_peer(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 16_384)) as peer,
        make_http_client(memory=memory) as http,
    ):
        with pytest.raises(VendorFailure):
            await exchange(http, "GET", peer.url + "/", **results)
        assert memory.peak_bytes == 5 * 900_000
        assert memory.used_bytes == 0


async def test_what_an_answer_of_unknown_length_does_not_need_is_given_back_once_it_is_read() -> None:
    memory = MemoryBudget(5_000_000, patience_seconds=60)
    results: dict[str, Any] = {"operation": "get", "headers": {}, "max_bytes": 900_000}
    content = CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (100_000, b"a" * 100_000)

    async def talk(line: Line) -> None:
        await line.head()
        await line.say(content)

    async with open_peer(talk) as peer, make_http_client(memory=memory) as http:
        answer = await exchange(http, "GET", peer.url + "/", **results)
        assert (memory.peak_bytes, memory.used_bytes) == (5 * 900_000, 5 * len(answer.body))


async def test_without_room_the_answer_comes_another_time() -> None:
    memory = MemoryBudget(5_000_000, patience_seconds=0.05)
    assert await memory.acquire(4_900_000)
    async with open_peer(saying(b"a" * 600_000)) as peer, make_http_client(memory=memory) as http:
        with pytest.raises(VendorTimeout):
            await exchange(http, "GET", peer.url + "/", operation="get", headers={}, max_bytes=1_000_000)
