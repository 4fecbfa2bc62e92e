"""Audio on its way to the vendor: all of it or an error that says whether it may have arrived."""

from __future__ import annotations

import asyncio
import gzip
import random
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import (
    VendorFailure,
    VendorTimeout,
    VendorUnavailable,
    VendorUnreachable,
)
from service.eka.audio_client import AudioClient, UploadTimeouts
from tests.support.certificates import make_authority
from tests.support.raw_peer import (
    OK,
    SHORT,
    Line,
    Sound,
    answer_all,
    header,
    headers_of,
    open_peer,
    settle,
    tidy_loop,
    upload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = Sound(bytes(12_000_000))


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    """No test leaves anything behind."""
    async with tidy_loop():
        yield


async def test_all_of_it_arrives_under_our_headers_and_connections_are_kept() -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def talk(line: Line) -> None:
        while (request := await line.request())[0]:
            heard.append(request)
            zipped = gzip.compress(b'{"ok": true}')
            await line.say(
                b"HTTP/1.1 201 Created\r\nSet-Cookie: a=b; Path=/\r\nRetry-After: 7\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(zipped),
                zipped,
            )

    sound = Sound(random.Random(1).randbytes(1_000_001))
    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        for _ in range(2):
            headers = headers_of(sound, authorization="Bearer secret")
            answer = await wire.send(f"{peer.url}/v1/a%20b", headers, sound)
            assert (answer.status, answer.retry_after_seconds, answer.body) == (201, 7.0, b'{"ok": true}')
    assert len(peer.lines) == 1
    for head, body in heard:
        assert head.startswith(b"POST /v1/a%20b HTTP/1.1\r\n")
        assert body == sound.content
        assert header(head, "content-length") == "1000001"
        assert header(head, "content-type") == "audio/wav"
        assert header(head, "authorization") == "Bearer secret"
        assert header(head, "transfer-encoding") is header(head, "cookie") is header(head, "expect") is None


@pytest.mark.parametrize("status", [401, 413, 429, 503])
async def test_a_refusal_in_the_middle_of_the_body_is_seen_and_its_connection_not_used_again(
    status: int,
) -> None:
    async def talk(line: Line) -> None:
        if len(peer.lines) > 1:
            await answer_all(line)
            return
        await line.head()
        await line.say(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\n{}" % status)
        await done.wait()  # it neither reads on nor closes
        await line.rest()

    done = asyncio.Event()
    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        assert await upload(wire, peer, LARGE) == status
        await settle()
        assert peer.unsent_bytes() == 0
        assert await upload(wire, peer, Sound()) == 200
        assert len(peer.lines) == 2
        done.set()
        await peer.lines[0].ended.wait()


async def test_a_success_before_it_had_the_audio_is_not_believed() -> None:
    async def talk(line: Line) -> None:
        await line.head()
        await line.say(OK)
        await line.rest()

    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        with pytest.raises(VendorUnavailable) as failed:
            await upload(wire, peer, LARGE)
        assert failed.value.sent is True
        await peer.lines[0].ended.wait()


@pytest.mark.parametrize(
    "stale", [OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"], ids=["200", "408"]
)
async def test_what_the_vendor_said_before_it_was_asked_is_no_answer(stale: bytes) -> None:
    heard: list[bytes] = []

    async def talk(line: Line) -> None:
        heard.append((await line.request())[1])
        await line.say(OK)
        if len(peer.lines) == 1:
            await idle.wait()
            await line.say(stale)
        await line.rest()

    idle = asyncio.Event()
    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        assert await upload(wire, peer, Sound(b"first")) == 200
        idle.set()
        await settle()
        with pytest.raises(VendorUnavailable) as failed:
            await upload(wire, peer, Sound(b"second"))
        assert failed.value.sent is False
        assert await upload(wire, peer, Sound(b"second")) == 200
    assert heard == [b"first", b"second"]


async def test_a_vendor_that_stops_reading_is_given_up_and_nothing_is_kept_for_it() -> None:
    async def talk(line: Line) -> None:
        await line.head()
        await done.wait()

    done = asyncio.Event()
    async with asyncio.timeout(5), open_peer(talk) as peer, AudioClient(peer.url, timeouts=SHORT) as wire:
        with pytest.raises(VendorTimeout) as failed:
            await upload(wire, peer, LARGE)
        assert failed.value.sent is True
        await settle()
        assert peer.unsent_bytes() == 0
        done.set()


async def test_a_vendor_that_never_answers_is_given_up() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 ")
        await line.rest()

    async with asyncio.timeout(5), open_peer(talk) as peer, AudioClient(peer.url, timeouts=SHORT) as wire:
        with pytest.raises(VendorTimeout) as failed:
            await upload(wire, peer, Sound())
        assert failed.value.sent is True
        await peer.lines[0].ended.wait()


class Dripping(Sound):
    read_to = 0

    async def pause(self, at: int) -> None:
        self.read_to = at
        await asyncio.sleep(0.15)


async def test_a_body_that_moves_may_take_longer_than_one_wait() -> None:
    async with open_peer(answer_all) as peer, AudioClient(peer.url, timeouts=SHORT) as wire:
        assert await upload(wire, peer, Dripping(bytes(6), piece=1)) == 200


async def test_a_body_may_not_take_for_ever() -> None:
    async def talk(line: Line) -> None:
        await line.rest()

    timeouts = UploadTimeouts(connect=0.3, write=0.3, read=0.3, whole=0.4)
    async with open_peer(talk) as peer, AudioClient(peer.url, timeouts=timeouts) as wire:
        sound = Dripping(bytes(6), piece=1)
        with pytest.raises(VendorTimeout) as failed:
            await upload(wire, peer, sound)
        assert failed.value.sent is True
        assert sound.read_to < 5


async def failure_of(url: str) -> VendorUnreachable:
    """How an upload to nobody fails."""
    sound = Sound()
    async with AudioClient(url, timeouts=SHORT) as wire:
        with pytest.raises(VendorUnreachable) as failed:
            await wire.send(url, headers_of(sound), sound)
    return failed.value


async def test_whoever_cannot_be_reached_was_sent_nothing(tmp_path: Path) -> None:
    async with open_peer(answer_all) as gone:
        pass
    issued = make_authority().issue("impostor")
    (tmp_path / "impostor.pem").write_text(issued.certificate + issued.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "impostor.pem")
    async with open_peer(answer_all, context=context) as impostor:
        for url in (gone.url, "http://nobody.invalid", impostor.url):
            failure = await failure_of(url)
            assert (type(failure), failure.sent) == (VendorUnavailable, False)


async def test_a_connection_that_is_never_made_is_a_time_out_with_nothing_sent() -> None:
    async def talk(line: Line) -> None:
        await line.rest()  # it never shakes hands

    async with open_peer(talk) as silent:
        failure = await failure_of(f"https://127.0.0.1:{silent.port}")
    assert (type(failure), failure.sent) == (VendorTimeout, False)


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize(
    "last_word",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"hello\r\n\r\n",
        None,
    ],
    ids=["closed", "cut off", "not zipped", "no HTTP", "reset"],
)
async def test_a_connection_that_breaks_may_have_brought_it(last_word: bytes | None, reads_all: bool) -> None:
    async def talk(line: Line) -> None:
        await (line.request() if reads_all else line.head())
        if last_word is None:
            line.reset()
        else:
            await line.say(last_word)

    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        with pytest.raises(VendorUnavailable) as failed:
            await upload(wire, peer, LARGE)
    assert failed.value.sent is True
    assert len(peer.lines) == 1


async def test_a_kept_connection_that_the_vendor_closed_is_not_used() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)

    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        for _ in range(3):
            assert await upload(wire, peer, Sound()) == 200
            await settle()
    assert len(peer.lines) == 3


@pytest.mark.parametrize("is_zipped", [False, True])
async def test_an_answer_without_end_is_a_failure(is_zipped: bool) -> None:
    content = bytes(200_000)
    answer = gzip.compress(content) if is_zipped else content

    async def talk(line: Line) -> None:
        await line.request()
        coding = b"Content-Encoding: gzip\r\n" if is_zipped else b""
        with suppress(ConnectionError):
            await line.say(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (coding, len(answer)), answer)
        await line.rest()

    async with open_peer(talk) as peer, AudioClient(peer.url, max_answer_bytes=100_000) as wire:
        with pytest.raises(VendorFailure) as failed:
            await upload(wire, peer, Sound())
        assert failed.value.sent is True
        await peer.lines[0].ended.wait()


async def test_a_token_goes_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refer(line: Line) -> None:
        heard.append((await line.request())[0])
        await line.say(
            b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other.port
        )

    heard: list[bytes] = []
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with open_peer(answer_all) as other, open_peer(refer) as peer, AudioClient(peer.url) as wire:
        sound = Sound()
        answer = await wire.send(peer.url, headers_of(sound), sound)
        assert (answer.status, other.lines) == (307, [])
    assert header(heard[0], "authorization") is None
