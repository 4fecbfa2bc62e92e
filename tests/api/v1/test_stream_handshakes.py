"""Handshakes of unknown clients are bounded, while open streams go on and others can still open."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.api.middleware.unauthenticated_limits import MAX_HANDSHAKES, HandshakeLimit
from service.domain.errors import Overloaded
from tests.support.bridge import Bridge
from tests.support.live_streams import FRAME, arrived, opened, refusal
from tests.support.rig import until

BEYOND = 30


def in_work() -> float:
    return REGISTRY.get_sample_value("ekabridge_requests_in_work", {"kind": "handshakes"}) or 0.0


async def test_handshakes_of_nobody_known_are_bounded_and_streams_go_on(bridge: Bridge) -> None:
    """Any number of them waited for the database, and everybody else's statements behind them."""
    session, ended = [await bridge.create(upload="stream") for _ in range(2)]
    await bridge.database.execute(
        "UPDATE sessions SET status = 'processing', ended_at = now() WHERE id = $1", ended["id"]
    )
    told: Counter[int] = Counter()

    async def knock() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(ended["stream_url"], compression=None, proxy=None, open_timeout=60)
        told[refused.value.response.status_code] += 1

    async def are_told() -> bool:
        return told[503] == BEYOND and in_work() == MAX_HANDSHAKES

    async with opened(session) as stream:
        await stream.send(FRAME)
        await arrived(bridge, session, 1)
        assert in_work() == 0  # whose address is right is no stranger
        async with bridge.database.transaction():
            # What is looked up waits, as in a database that has too much to do.
            await bridge.database.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            knocking = [asyncio.create_task(knock()) for _ in range(MAX_HANDSHAKES + BEYOND)]
            await until(are_told)
            await stream.send(FRAME)
            await arrived(bridge, session, 2)
        await asyncio.gather(*knocking)
        assert (told[503], told.total()) == (BEYOND, MAX_HANDSHAKES + BEYOND)
        assert in_work() == 0
        await stream.send(FRAME)
        await arrived(bridge, session, 3)
    guessed = session["stream_url"].rpartition("/")[0] + "/guessed"
    assert (await refusal(guessed))["code"] == "not_found"


def test_one_address_leaves_handshakes_to_others() -> None:
    limit = HandshakeLimit(max_handshakes=3, max_per_address=2, address_header="X-Forwarded-For")

    def scope(address: str) -> Any:
        return {"headers": [(b"x-forwarded-for", address.encode())]}

    first, _ = (limit.acquire(scope("192.0.2.1")) for _ in range(2))
    with pytest.raises(Overloaded):
        limit.acquire(scope("192.0.2.1"))
    limit.acquire(scope("192.0.2.2"))
    with pytest.raises(Overloaded):
        limit.acquire(scope("192.0.2.3"))
    for _ in range(2):
        first.release()
    limit.acquire(scope("192.0.2.1"))
    with pytest.raises(Overloaded):
        limit.acquire(scope("192.0.2.3"))
