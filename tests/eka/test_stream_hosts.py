"""A stream goes to EkaScribe's own host or one of the settings, whatever address its answer holds."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.asyncio.server import serve

from service.domain.errors import VendorFailure
from service.domain.ids import DEFAULT_ACCOUNT, SessionId
from service.eka.call_limiter import CallLimiters
from service.eka.streams import EkaStreams

SESSION = SessionId("ses_1")


async def hold(connection: Any) -> None:
    await connection.wait_closed()


@pytest.mark.parametrize("hosts", [[], ["elsewhere.example"]])
async def test_another_host_hears_nothing(hosts: list[str]) -> None:
    opened: list[Any] = []

    async def count(connection: Any) -> None:
        opened.append(connection)
        await connection.wait_closed()

    streams = EkaStreams("http://eka.example", CallLimiters(max_calls=2), hosts=hosts)
    async with serve(count, "127.0.0.1", 0) as attacker:
        port = attacker.sockets[0].getsockname()[1]
        with pytest.raises(VendorFailure) as refused:
            await streams.open(DEFAULT_ACCOUNT, SESSION, f"ws://127.0.0.1:{port}/steal")
    assert not refused.value.sent
    assert "127.0.0.1" not in refused.value.detail
    assert opened == []


@pytest.mark.parametrize(
    "url",
    [
        "wss://evil.example/x",
        "wss://eka.example.evil.example/",
        "wss://eka.example@evil.example/",
        "wss://evil.example#@eka.example/",
        "wss://evil.example\\@eka.example/",
        "wss://169.254.169.254/latest",
        "wss:///nowhere",
        "wss://[::1",
        "wss://eka.example:99999/",
        "wss://eka.example./",
        "ws://eka.example/",
        "https://eka.example/",
        "",
    ],
)
async def test_an_address_that_only_looks_right_is_refused(url: str) -> None:
    streams = EkaStreams("https://eka.example/base", CallLimiters(max_calls=2))
    with pytest.raises(VendorFailure):
        await streams.open(DEFAULT_ACCOUNT, SESSION, url)


@pytest.mark.parametrize(
    ("base", "hosts"), [("http://127.0.0.1:9", []), ("http://eka.example", ["other.example", "127.0.0.1"])]
)
async def test_the_vendor_s_own_host_and_those_of_the_setting_are_streamed_to(
    base: str, hosts: list[str]
) -> None:
    streams = EkaStreams(base, CallLimiters(max_calls=2), hosts=hosts)
    async with serve(hold, "127.0.0.1", 0) as vendor:
        port = vendor.sockets[0].getsockname()[1]
        stream = await streams.open(DEFAULT_ACCOUNT, SESSION, f"ws://127.0.0.1:{port}/")
        await stream.close(1000)
