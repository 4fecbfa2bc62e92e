"""What one connection may cost: each limit, over raw sockets, against the server's own protocol class."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest
from prometheus_client import REGISTRY

from service.http_server.graceful_shutdown import DrainingHttpProtocol
from tests.support.api_calls import Wire, until, wire
from tests.support.limited_server import (
    CHUNKED,
    GET,
    LARGE,
    POST,
    refused,
    refuses,
    serving,
    until_inside,
)


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    async with serving() as (_, found):
        yield found


class Few(DrainingHttpProtocol):
    """Few connections."""

    max_connections = 4
    spare_connections = 1


class Quick(DrainingHttpProtocol):
    """The same limits, sooner over."""

    silent_seconds = 0.3
    head_seconds = 0.3
    unread_seconds = 0.5
    unwanted_seconds = 1.0
    unwanted_pause_seconds = 0.4
    check_seconds = 0.05


@pytest.fixture(scope="module")
async def quick() -> AsyncIterator[str]:
    async with serving(Quick) as (_, found):
        yield found


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"],
        [b"GET /x HTTP/1.1\r\nHost: test\r\nX-A: ", *[b"a" * 8_000] * 8],
        [b"GET /x HTTP/1.1\r\nHost: test\r\nX-", *[b"a" * 8_000] * 8],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: test\r\n\r\n"],
        [b"GET /", *[b"a" * 8_000] * 8],
        [b"GET /x HTTP/1.1\r\nHost: test\r\n", *[b"X-%d: a\r\n" % number for number in range(101)]],
        [b"GET /x HTTP/1.1\r\nHost: test\r\n", *[b"X: " + b"a" * 1_000 + b"\r\n"] * 40],
        [b"\r\n" * 5_000] * 8,
        [GET + GET[:-2] + b"X-A: ", *[b"a" * 80_000] * 8],
    ],
    ids=[
        "a header",
        "its pieces",
        "a name",
        "an address",
        "its pieces ",
        "many",
        "all together",
        "none",
        "second",
    ],
)
async def test_a_head_that_is_too_large_is_refused_before_it_is_whole(url: str, pieces: list[bytes]) -> None:
    async with wire(url) as client:
        sending = asyncio.create_task(client.send(*pieces))
        answer = await client.answer()
        if pieces[0].startswith(GET):
            assert answer.body == b"GET 0"
            answer = await client.answer()
        refused(answer, 431, "headers_too_large")
        await sending
        assert await client.closed() == b""


async def test_a_head_within_the_limits_is_served(url: str) -> None:
    head = GET[:-2] + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 300) for number in range(99))
    async with wire(url) as client:
        for _ in range(2):
            await client.send(head, b"\r\n")
            assert (await client.answer()).body == b"GET 0"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        POST + b"Content-Length: 3, 3\r\n\r\nabc",
        POST + b"Content-Length: +3\r\n\r\nabc",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"X-A: a\x00b\r\n\r\n",
        POST + b"X-A: a\x0bb\r\n\r\n",
        POST + b"X-A: a\rX-B: b\r\n\r\n",
        POST + b"X-A: a\nX-B: b\r\n\r\n",
        POST + b"X-A: a\r\n b\r\n\r\n",
        POST + b"X-A : a\r\n\r\n",
        b"GET /x HTTP/1.1\nHost: test\n\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/2.0\r\nHost: test\r\n\r\n",
        b"GET /x\r\n\r\n",
        b"CONNECT test:1 HTTP/1.1\r\nHost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3, 3\r\n\r\nabc",
    ],
)
async def test_what_can_be_read_in_two_ways_is_refused(url: str, request_: bytes) -> None:
    await refuses(url, 400, "invalid_request", request_)


async def test_a_body_in_chunks_is_read_and_its_trailers_are_no_headers() -> None:
    async with serving() as (app, url), wire(url) as client:
        await client.send(CHUNKED, b"3;name=value\r\nabc\r\n1\r\nd\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert (await client.answer()).body == b"POST 4"
        assert b"authorization" not in dict(app.headers[0])
        await client.send(CHUNKED, *[b"1\r\nX\r\n"] * 5_000, b"0\r\n\r\n")
        assert (await client.answer()).body == b"POST 5000"


@pytest.mark.parametrize(
    "piece",
    [
        b"3;" + b"a" * 600_000,
        b"0\r\n" + b"T: a\r\n" * 100_000,
        b"0\r\nT: " + b"a" * 600_000,
        b"0" * 600_000,
    ],
    ids=["an extension", "trailers", "one trailer", "a size"],
)
async def test_a_body_that_is_all_frame_is_refused(url: str, piece: bytes) -> None:
    async with wire(url) as client:
        await client.send(CHUNKED, b"1\r\nX\r\n")
        sending = asyncio.create_task(
            client.send(*[piece[at : at + 20_000] for at in range(0, len(piece), 20_000)])
        )
        refused(await client.answer(), 400, "invalid_request")
        await sending


async def test_a_request_that_offers_another_protocol_keeps_its_body(url: str) -> None:
    # What Java's HttpClient sends by default to an http:// address.
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    async with wire(url) as client:
        for _ in range(2):
            await client.send(POST + offer + b"Content-Length: 6\r\n\r\nabc")
            await client.send(b"def")
            assert (await client.answer()).body == b"POST 6"
        await client.send(GET)
        assert (await client.answer()).body == b"GET 0"


async def test_requests_sent_ahead_are_answered_in_order_and_not_without_end() -> None:
    async with serving() as (app, url), wire(url) as client:
        await client.send(GET.replace(b"/x", b"/gate") + GET * 500)
        await until_inside(app, 1)
        app.gate.set()
        answers = await client.closed()
        assert answers.count(b"HTTP/1.1 200 OK") == 17
        assert answers.count(b"HTTP/1.1") == 17
        assert answers.endswith(b"connection: close\r\n\r\nGET 0")


async def test_nothing_wrong_is_told_between_the_answers_that_are_due() -> None:
    async with serving() as (app, url), wire(url) as client:
        await client.send(GET.replace(b"/x", b"/gate"))
        await until_inside(app, 1)
        before = refusals()
        await client.send(b"nonsense\r\n\r\n")

        async def was_read() -> bool:
            return refusals() > before

        await until(was_read)
        app.gate.set()
        assert (await client.answer()).body == b"GET 0"
        assert await client.closed() == b""


def refusals() -> float:
    return REGISTRY.get_sample_value("ekabridge_http_refused_total", {"code": "invalid_request"}) or 0.0


async def test_a_head_must_be_whole_in_time_however_it_drips(quick: str) -> None:
    async with wire(quick) as client:
        dripping = asyncio.create_task(drip(client, GET[:-2] + b"X-A: " + b"a" * 10_000))
        refused(await client.answer(), 408, "header_timeout")
        assert await client.closed() == b""
        dripping.cancel()


async def drip(client: Wire, content: bytes) -> None:
    for at in range(len(content)):
        await client.send(content[at : at + 1])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_that_says_nothing_is_closed(quick: str, sent: bytes) -> None:
    async with wire(quick) as client:
        await client.send(sent)
        assert await client.closed() == b""


async def test_time_does_not_run_while_an_answer_is_due() -> None:
    async with serving(Quick) as (app, url), wire(url) as client:
        await client.send(GET.replace(b"/x", b"/gate"), GET[:-4])
        await until_inside(app, 1)
        await asyncio.sleep(3 * Quick.head_seconds)  # the time itself is what is tested
        app.gate.set()
        assert (await client.answer()).body == b"GET 0"
        refused(await client.answer(), 408, "header_timeout")


async def test_a_client_that_does_not_read_its_answer_is_cut_and_a_slow_one_is_not() -> None:
    async with serving(Quick) as (app, url), wire(url) as deaf, wire(url) as slow:
        for client in (deaf, slow):
            await client.send(GET.replace(b"/x", b"/large"))
        got = 0
        while piece := await slow._reader.read(100_000):
            got += len(piece)
            await asyncio.sleep(0.02)
            if got >= LARGE:
                break
        assert got >= LARGE
        await until_inside(app, 0)
        assert len(await deaf.closed()) < LARGE


async def test_an_answer_before_the_body_is_heard_by_whoever_still_sends(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as api:
        for address in ("/early", "/early?close", "/early"):
            answer = await api.post(address, content=bytes(10_000_000))
            assert answer.text == "POST 0"
        assert (await api.post("/x", content=b"abc")).text == "POST 3"


async def test_an_early_answer_leaves_the_connection_in_step(url: str) -> None:
    async with wire(url) as client:
        await client.send(POST.replace(b"/x", b"/early") + b"Content-Length: 300000\r\n\r\n")
        assert (await client.answer()).body == b"POST 0"
        await client.send(bytes(300_000), GET)
        assert (await client.answer()).body == b"GET 0"


@pytest.mark.parametrize("address", [b"/early", b"/early?close"])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_whoever_goes_on_sending_what_nobody_wants_is_cut(
    quick: str, address: bytes, *, goes_on: bool
) -> None:
    async with wire(quick) as client:
        await client.send(POST.replace(b"/x", address) + b"Content-Length: 1000000000\r\n\r\nabc")
        assert (await client.answer()).body == b"POST 0"
        sending = asyncio.create_task(drip(client, bytes(10_000)) if goes_on else asyncio.sleep(0))
        assert await client.closed() == b""
        async with asyncio.timeout(8):
            while True:  # a half-closed connection is over when what is sent is refused
                client._writer.write(b"x")
                if client._writer.transport.is_closing():
                    break
                await asyncio.sleep(0.02)
        sending.cancel()


async def test_connections_are_bounded_and_probes_still_get_in() -> None:
    async with serving(Few) as (app, url), AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(wire(url)) for _ in range(4)]
        for client in kept:
            await client.send(GET.replace(b"/x", b"/gate"))
        await until_inside(app, 4)
        async with wire(url) as spare:
            await spare.send(GET.replace(b"/x", b"/health/live"))
            assert (await spare.answer()).body == b"GET 0"
            await spare.send(GET)
            answer = await spare.answer()
            refused(answer, 503, "overloaded")
            assert int(answer.headers["retry-after"]) > 0
            await refuses(url, 503, "overloaded", b"")
        app.gate.set()
        for client in kept:
            assert (await client.answer()).body == b"GET 0"
        kept[0].reset()

        async def is_served() -> bool:
            async with wire(url) as client:
                await client.send(GET)
                return (await client.answer()).status == 200

        await until(is_served)


async def test_when_all_connections_are_taken_a_stranger_s_gives_way() -> None:
    """A thousand connections of nobody, and the vendor's webhook, or a hospital's call, finds none."""
    async with serving(Few) as (_, url), AsyncExitStack() as stack:
        known = await stack.enter_async_context(wire(url))
        await known.send(GET.replace(b"/x", b"/of/a"))
        assert (await known.answer()).body == b"GET 0"
        strangers = [await stack.enter_async_context(wire(url)) for _ in range(3)]
        for client in strangers:
            await client.send(GET)
            assert (await client.answer()).body == b"GET 0"
            await client.send(GET[:-4])  # a head that never ends
        newcomer = await stack.enter_async_context(wire(url))
        await newcomer.send(GET.replace(b"/x", b"/of/b"))
        assert (await newcomer.answer()).body == b"GET 0"
        assert await strangers[0].closed() == b""
        await known.send(GET.replace(b"/x", b"/of/a"))
        assert (await known.answer()).body == b"GET 0"
        for client in strangers[1:]:
            await client.send(b"\r\n\r\n")
            assert (await client.answer()).status == 200


async def test_one_owner_has_three_quarters_of_the_connections() -> None:
    async with serving(Few) as (_, url), AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(wire(url)) for _ in range(4)]
        told = []
        for client in clients:
            await client.send(GET.replace(b"/x", b"/of/a"))
            told.append((await client.answer()).body)
        assert told == [b"GET 0", b"GET 0", b"GET 0", b"GET 8"]
        await clients[3].send(GET.replace(b"/x", b"/of/b"))
        assert (await clients[3].answer()).body == b"GET 0"
        clients[0].reset()

        async def is_let_in() -> bool:
            async with wire(url) as client:
                await client.send(GET.replace(b"/x", b"/of/a"))
                return (await client.answer()).body == b"GET 0"

        await until(is_let_in)
