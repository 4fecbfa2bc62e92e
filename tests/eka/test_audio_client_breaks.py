"""Uploads that end in the middle: nothing is left behind, and none has bytes of another."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from service.domain.errors import VendorUnreachable
from service.eka.audio_client import AudioClient
from tests.support.raw_peer import OK, Line, Sound, answer_all, header, open_peer, tidy_loop, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    """No test leaves anything behind."""
    async with tidy_loop():
        yield


async def test_whoever_goes_away_in_the_middle_of_a_body_leaves_nothing_behind() -> None:
    async def talk(line: Line) -> None:
        await line.head()
        under_way.set()
        await line.rest()

    class Waiting(Sound):
        async def pause(self, at: int) -> None:
            if at:
                await asyncio.Event().wait()

    for sound in (Sound(bytes(12_000_000)), Waiting(bytes(200_000))):
        under_way = asyncio.Event()
        async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
            sending = asyncio.create_task(upload(wire, peer, sound))
            await under_way.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await peer.lines[0].ended.wait()


class Failing(Sound):
    async def pause(self, at: int) -> None:
        if at:
            raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("sound", "error"),
    [
        (Failing(bytes(200_000)), OSError),
        (Sound(bytes(9), size=10), RuntimeError),
        (Sound(bytes(9), size=8), RuntimeError),
    ],
)
async def test_audio_that_cannot_be_read_whole_is_our_failure_and_never_half_an_upload(
    sound: Sound, error: type[Exception]
) -> None:
    async def talk(line: Line) -> None:
        if len(peer.lines) > 1:
            await answer_all(line)
        await line.rest()

    async with open_peer(talk) as peer, AudioClient(peer.url) as wire:
        with pytest.raises(error) as failed:
            await upload(wire, peer, sound)
        assert not isinstance(failed.value, VendorUnreachable)
        assert await upload(wire, peer, Sound()) == 200
        assert len(peer.lines) == 2


class Moody:
    """A vendor that ends each upload in another way, and looks at whose bytes it got."""

    def __init__(self, jitter: random.Random) -> None:
        self.jitter = jitter
        self.taken: set[int] = set()

    async def talk(self, line: Line) -> None:
        while head := await line.head():
            assert head.startswith(b"POST /")
            mood = self.jitter.choice(["take", "take", "take", "refuse", "reset", "close"])
            if mood == "refuse":
                await line.say(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
            if mood == "reset":
                line.reset()
            number, size = int(head.split(b" ")[1][1:]), int(header(head, "content-length") or 0)
            is_whole = await self.look(line, number, size)
            if mood == "close" or not is_whole:
                return
            if mood == "take":
                self.taken.add(number)
                await line.say(OK)

    async def look(self, line: Line, number: int, size: int) -> bool:
        """Whether all of the body came; each of its bytes names the upload."""
        while size:
            with suppress(ConnectionError):
                piece = await line.reader.read(min(size, 65536))
                size -= len(piece)
                assert piece == bytes([number]) * len(piece)
                if piece:
                    continue
            return False
        return True


async def test_of_many_uploads_that_end_in_every_way_none_has_bytes_of_another() -> None:
    moody = Moody(random.Random(7))
    ends: list[int] = []

    async def one(number: int) -> None:
        sound = Sound(bytes([number]) * moody.jitter.choice([10, 70_000, 900_000]))
        sending = asyncio.create_task(upload(wire, peer, sound, f"/{number}"))
        if moody.jitter.random() < 0.2:
            for _ in range(moody.jitter.randrange(30)):
                await asyncio.sleep(0)
            sending.cancel()
        with suppress(VendorUnreachable, asyncio.CancelledError):
            status = await sending
            assert status == (200 if number in moody.taken else 401)
            ends.append(status)

    async with asyncio.timeout(20), open_peer(moody.talk) as peer, AudioClient(peer.url) as wire:
        for start in range(0, 240, 12):
            await asyncio.gather(*(one(number) for number in range(start, start + 12)))
    assert min(ends.count(200), ends.count(401)) > 20
    assert len(peer.lines) < 240
