"""Pieces of a recording: after a failure nothing is stored whose place is not certain."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from service.api.recording_pieces import receive_directly
from service.domain.errors import BridgeError, Overloaded, StoreUnavailable

AUDIO = secrets.token_bytes(1_200_000)


class Piece:
    """Stores what is appended; the first append fails."""

    def __init__(self, failure: BridgeError | None) -> None:
        self.failure, self.stored = failure, b""

    async def append(self, blocks: AsyncIterator[bytes], size: int) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.stored += b"".join([block async for block in blocks])


def request(*, breaks: bool = False) -> Any:
    parts = [AUDIO[at : at + 70_000] for at in range(0, len(AUDIO), 70_000)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.disconnect"} if breaks else {"type": "http.request"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return SimpleNamespace(receive=receive, headers={})


@pytest.mark.parametrize("failure", [StoreUnavailable("away"), Overloaded("no room", retry_after_seconds=1)])
async def test_after_a_block_that_was_not_stored_no_later_one_takes_its_place(failure: BridgeError) -> None:
    piece: Any = Piece(failure)
    with pytest.raises(type(failure)):
        await receive_directly(request(), piece, len(AUDIO))
    assert piece.stored == b""


@pytest.mark.parametrize("breaks", [True, False])
async def test_what_came_before_a_break_stays(breaks: bool) -> None:
    piece: Any = Piece(None)
    if breaks:
        with pytest.raises(BridgeError):
            await receive_directly(request(breaks=True), piece, len(AUDIO))
    else:
        await receive_directly(request(), piece, len(AUDIO))
    assert piece.stored == AUDIO
