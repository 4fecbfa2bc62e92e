"""An upload is tried three times at most, and whether it may have arrived is remembered over all of them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import httpx2
import pytest

from service.domain.accounts import Credentials
from service.domain.errors import VendorLimited, VendorUnavailable, VendorUnreachable
from service.domain.ids import DEFAULT_ACCOUNT, Account
from service.eka.audio_formats import normalise_audio_format
from service.eka.audio_wire import AudioWire
from service.eka.client import EkaClient
from service.eka.gate import Gates
from service.eka.tokens import TokenKeeper
from tests.unit.fakes import MemoryDownloads, MemoryTokens
from tests.unit.makers import SESSION, TurnedClock
from tests.unit.raw_peer import OK, Line, Sound, answer_all, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Eka:
    """The vendor's client; audio goes over real connections, and looks at the session are answered here."""

    def __init__(self) -> None:
        self.looks = 0
        self.look_status = 200

    def look(self, request: httpx2.Request) -> httpx2.Response:
        assert request.method == "GET"
        self.looks += 1
        return httpx2.Response(self.look_status, json={}, headers={"retry-after": "0"})

    @asynccontextmanager
    async def client(self, base_url: str) -> AsyncIterator[EkaClient]:
        async def credentials(account: Account, *, fresh: bool = False) -> Credentials:
            return Credentials(token="static")

        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(
                httpx2.AsyncClient(transport=httpx2.MockTransport(self.look))
            )
            audio = await stack.enter_async_context(AudioWire(base_url))
            tokens = TokenKeeper(
                http=http,
                store=MemoryTokens(),
                clock=TurnedClock(),
                base_url=base_url,
                credentials=credentials,
            )
            yield EkaClient(
                http=http,
                audio=audio,
                tokens=tokens,
                gates=Gates(places=2),
                downloads=MemoryDownloads(),
                base_url=base_url,
            )

    async def upload(self, base_url: str) -> None:
        async with self.client(base_url) as client:
            audio_format = normalise_audio_format("audio/wav")
            assert audio_format is not None
            await client.upload_audio(DEFAULT_ACCOUNT, SESSION, "audio_0.wav", audio_format, Sound())

    async def failure(self, base_url: str) -> VendorUnreachable:
        with pytest.raises(VendorUnreachable) as failed:
            await self.upload(base_url)
        return failed.value


@pytest.mark.parametrize(("asked", "tries"), [(b"0", 3), (b"6", 1)])
async def test_it_is_tried_as_often_as_is_worth_waiting_for(asked: bytes, tries: int) -> None:
    bodies: list[bytes] = []

    async def talk(line: Line) -> None:
        while (request := await line.request())[0]:
            bodies.append(request[1])
            await line.say(b"HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % asked)

    eka = Eka()
    async with open_peer(talk) as peer:
        failure = await eka.failure(peer.url)
    assert (type(failure), failure.retry_after_seconds) == (VendorUnavailable, float(asked))
    assert bodies == [b"sound"] * tries
    assert eka.looks == tries - 1


async def test_what_may_have_arrived_stays_so_when_later_tries_do_not_get_as_far() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        line.reset()

    eka = Eka()
    eka.look_status = 429
    async with open_peer(talk) as peer:
        failure = await eka.failure(peer.url)
    assert (type(failure), failure.sent, len(peer.lines), eka.looks) == (VendorLimited, True, 1, 2)


async def test_a_look_at_the_session_brings_no_audio() -> None:
    async with open_peer(answer_all) as gone:
        pass
    eka = Eka()
    eka.look_status = 503
    failure = await eka.failure(gone.url)
    assert (failure.sent, eka.looks) == (False, 2)


async def test_a_second_try_that_succeeds_is_a_success() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        if len(peer.lines) > 1:
            await line.say(OK)

    eka = Eka()
    async with open_peer(talk) as peer:
        await eka.upload(peer.url)
    assert (len(peer.lines), eka.looks) == (2, 1)
