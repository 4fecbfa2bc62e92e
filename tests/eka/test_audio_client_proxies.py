"""Audio goes by the proxy by which all other calls to the vendor go."""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from service.domain.errors import VendorUnavailable
from service.eka.audio_client import AudioClient
from service.http_client.tls_and_proxy import proxy_for, trusted_context
from tests.support.certificates import make_authority
from tests.support.raw_peer import OK, Line, Sound, answer_all, header, headers_of, open_peer, tidy_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
SECRET = "Basic " + base64.b64encode(b"user:p@ss").decode()


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    """No test leaves anything behind."""
    async with tidy_loop():
        yield


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def httpx2s_proxy_for(url: str) -> str | None:
    """Which proxy httpx2 would take."""
    with httpx2.Client(verify=trusted_context()) as client:
        transport: Any = client._transport_for_url(httpx2.URL(url))
        if transport is client._transport:
            return None
        proxy = transport._pool._proxy_url
        return f"{proxy.scheme.decode()}://{proxy.host.decode()}:{proxy.port}"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTPS_PROXY": "http://one:3128"},
        {"https_proxy": "one:3128"},
        {"HTTP_PROXY": "http://one:3128"},
        {"ALL_PROXY": "http://one:3128"},
        {"HTTPS_PROXY": "http://one:3128", "ALL_PROXY": "http://two:3128"},
        {"HTTPS_PROXY": ""},
        *(
            {"ALL_PROXY": "http://one:3128", "NO_PROXY": entry}
            for entry in (
                *("*", "eka.care", ".eka.care", "*.eka.care", "a.eka.care", "ka.care", "EKA.care", "care,x"),
                *("a.eka.care:8443", "eka.care:443", "other, a.eka.care ,", "10.0.0.0/8", "10.1.2.3"),
                *("10.1.2.3/nonsense", "::1", "[::1]", "fd00::/8", "localhost", ",", "10.1.2"),
            )
        ),
    ],
    ids=lambda environment: " ".join(f"{name}={value}" for name, value in environment.items()) or "none",
)
def test_the_proxy_is_the_one_that_httpx2_takes(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for address in (
        *("https://a.eka.care", "https://eka.care", "https://a.eka.care:8443/v1", "http://a.eka.care"),
        *("http://10.1.2.3:80", "https://[::1]:5", "http://localhost:1", "https://A.EKA.CARE"),
    ):
        assert proxy_for(address) == httpx2s_proxy_for(address), address


async def test_a_plain_address_is_asked_for_by_its_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def talk(line: Line) -> None:
        while (request := await line.request())[0]:
            heard.append(request)
            await line.say(OK)

    async with open_peer(talk) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        sound = Sound()
        async with AudioClient("http://eka.invalid") as wire:
            for _ in range(2):
                assert (await wire.send("http://eka.invalid/a%20b", headers_of(sound), sound)).status == 200
    assert len(proxy.lines) == 1
    for head, body in heard:
        assert head.startswith(b"POST http://eka.invalid/a%20b HTTP/1.1\r\n")
        assert header(head, "proxy-authorization") == SECRET
        assert body == sound.content


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """A vendor's, by the one authority that the machine trusts."""
    authority = make_authority()
    issued = authority.issue("vendor")
    (tmp_path / "authorities.pem").write_text(authority.certificate)
    (tmp_path / "vendor.pem").write_text(issued.certificate + issued.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authorities.pem"))
    trusted_context.cache_clear()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "vendor.pem")
    yield context
    trusted_context.cache_clear()


async def test_a_safe_address_is_reached_through_a_tunnel_and_the_proxy_learns_no_token(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    async def tunnel(line: Line) -> None:
        heard.append(await line.head())
        reader, writer = await asyncio.open_connection("127.0.0.1", vendor.port)
        await line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while piece := await source.read(65536):
                heard.append(piece)
                sink.write(piece)
                await sink.drain()

        pumps = [
            asyncio.create_task(pump(line.reader, writer)),
            asyncio.create_task(pump(reader, line.writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        writer.transport.abort()

    sound = Sound(bytes(500_000))
    async with open_peer(answer_all, context=certificate) as vendor, open_peer(tunnel) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        async with AudioClient(vendor.url) as wire:
            for _ in range(2):
                headers = headers_of(sound, authorization="Bearer token")
                assert (await wire.send(f"{vendor.url}/a", headers, sound)).status == 200
    assert len(proxy.lines) == 1
    assert heard[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % vendor.port)
    assert header(heard[0], "proxy-authorization") == SECRET
    assert header(heard[0], "authorization") is None
    assert b"Bearer" not in b"".join(heard)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b""], ids=["407", "gone"]
)
async def test_what_a_proxy_does_not_let_through_was_not_sent(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(line: Line) -> None:
        await line.head()
        await line.say(answer)

    async with open_peer(talk) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        sound = Sound()
        async with AudioClient("https://eka.invalid") as wire:
            with pytest.raises(VendorUnavailable) as failed:
                await wire.send("https://eka.invalid/", headers_of(sound), sound)
    assert failed.value.sent is False
