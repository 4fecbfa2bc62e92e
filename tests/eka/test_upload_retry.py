"""An upload is tried three times at most, whether it may have arrived is remembered over all of them.

Only the vendor's word that this session's audio is stored is a success.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.domain.errors import VendorFailure, VendorLimited, VendorUnavailable, VendorUnreachable
from service.domain.ids import DEFAULT_ACCOUNT
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format
from tests.support.fakes import allow_repeat
from tests.support.makers import SESSION
from tests.support.raw_peer import Line, Peer, Sound, answer_all, open_peer
from tests.support.vendor_calls import ScriptedEka

STORED = {"session_id": SESSION, "success": True, "original_filename": "audio_0.wav"}


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def upload(eka: ScriptedEka, base_url: str) -> None:
    async with eka.client(base_url) as client:
        audio_format = normalise_audio_format("audio/wav", PUBLISHED_FORMATS)
        assert audio_format is not None
        await client.upload_audio(
            DEFAULT_ACCOUNT, SESSION, "audio_0.wav", audio_format, Sound(), allow_repeat
        )


async def failure_of(eka: ScriptedEka, base_url: str) -> VendorUnreachable:
    with pytest.raises(VendorUnreachable) as failed:
        await upload(eka, base_url)
    return failed.value


@pytest.mark.parametrize(("asked", "tries"), [(b"0", 3), (b"6", 1)])
async def test_it_is_tried_as_often_as_is_worth_waiting_for(asked: bytes, tries: int) -> None:
    bodies: list[bytes] = []

    async def talk(line: Line) -> None:
        while (request := await line.request())[0]:
            bodies.append(request[1])
            await line.say(b"HTTP/1.1 503 No\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % asked)

    eka = ScriptedEka((200, {}))
    async with open_peer(talk) as peer:
        failure = await failure_of(eka, peer.url)
    assert (type(failure), failure.retry_after_seconds) == (VendorUnavailable, float(asked))
    assert bodies == [b"sound"] * tries
    assert [each.method for each in eka.sent] == ["GET"] * (tries - 1)


async def test_what_may_have_arrived_stays_so_when_later_tries_do_not_get_as_far() -> None:
    async def talk(line: Line) -> None:
        await line.request()
        line.reset()

    eka = ScriptedEka((429, {}))
    async with open_peer(talk) as peer:
        failure = await failure_of(eka, peer.url)
    assert (type(failure), failure.sent, len(peer.lines), len(eka.sent)) == (VendorLimited, True, 1, 2)


async def test_a_look_at_the_session_brings_no_audio() -> None:
    async with open_peer(answer_all) as gone:
        pass
    eka = ScriptedEka((503, {}))
    failure = await failure_of(eka, gone.url)
    assert (failure.sent, len(eka.sent)) == (False, 2)


def peer_that_says(*bodies: Any) -> tuple[list[bytes], Any]:
    """A vendor that answers 200 with each of these bodies in turn; the last one stays."""
    script, uploads = list(bodies), []

    async def talk(line: Line) -> None:
        while (request := await line.request())[0]:
            uploads.append(request[1])
            body = script.pop(0) if len(script) > 1 else script[0]
            await line.say(answer(body if isinstance(body, bytes) else json.dumps(body).encode()))

    return uploads, talk


async def test_a_second_try_that_succeeds_is_a_success() -> None:
    peers: list[Peer] = []

    async def talk(line: Line) -> None:
        await line.request()
        if len(peers[0].lines) > 1:
            await line.say(answer(json.dumps(STORED).encode()))

    eka = ScriptedEka((200, {}))
    async with open_peer(talk) as peer:
        peers.append(peer)
        await upload(eka, peer.url)
    assert (len(peer.lines), len(eka.sent)) == (2, 1)


async def test_the_recorded_answer_counts_at_once() -> None:
    uploads, talk = peer_that_says(STORED)
    async with open_peer(talk) as peer:
        await upload(ScriptedEka((200, {})), peer.url)
    assert uploads == [b"sound"]


@pytest.mark.parametrize("body", [json.dumps(STORED).encode()[:40], STORED | {"success": False}])
async def test_a_200_that_does_not_say_so_is_sent_again_and_never_counts(body: Any) -> None:
    uploads, talk = peer_that_says(body, STORED)
    async with open_peer(talk) as peer:
        await upload(ScriptedEka((200, {})), peer.url)
    assert uploads == [b"sound", b"sound"]
    uploads, talk = peer_that_says(body)
    async with open_peer(talk) as peer:
        failure = await failure_of(ScriptedEka((200, {})), peer.url)
    assert (type(failure), failure.sent) == (VendorFailure, True)
    assert uploads == [b"sound"] * 3
