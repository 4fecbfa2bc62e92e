"""The vendor is who a certificate authority says it is, for calls and for streams alike."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.asyncio.server import serve

from service.domain.errors import VendorUnavailable
from service.domain.ids import DEFAULT_ACCOUNT
from service.eka.call_limiter import CallLimiters
from service.eka.http_exchange import make_http_client
from service.eka.streams import EkaStreams
from service.http_client.tls_and_proxy import trusted_context
from tests.support.certificates import Authority, make_authority
from tests.support.makers import SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """The only one that the machine trusts."""
    made = make_authority()
    file = tmp_path / "authorities.pem"
    file.write_text(made.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    trusted_context.cache_clear()
    yield made
    trusted_context.cache_clear()


def open_vendor(folder: Path, authority: Authority) -> Any:
    """A vendor on loopback whose certificate is this authority's."""
    issued = authority.issue("vendor")
    file = folder / "vendor.pem"
    file.write_text(issued.certificate + issued.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)

    async def hold(connection: Any) -> None:
        await connection.wait_closed()

    return serve(hold, "127.0.0.1", 0, ssl=context)


async def test_a_stream_opens_to_a_vendor_that_the_machine_trusts(
    authority: Authority, tmp_path: Path
) -> None:
    streams = EkaStreams("https://eka.example", CallLimiters(max_calls=2), hosts=["127.0.0.1"])
    async with open_vendor(tmp_path, authority) as vendor:
        port = vendor.sockets[0].getsockname()[1]
        stream = await streams.open(DEFAULT_ACCOUNT, SESSION, f"WSS://127.0.0.1:{port}/")
        await stream.close(1000)


@pytest.mark.usefixtures("authority")
async def test_nobody_else_is_streamed_to_nor_called(tmp_path: Path) -> None:
    streams = EkaStreams("https://eka.example", CallLimiters(max_calls=2), hosts=["127.0.0.1"])
    async with open_vendor(tmp_path, make_authority()) as impostor, make_http_client() as http:
        port = impostor.sockets[0].getsockname()[1]
        with pytest.raises(VendorUnavailable):
            await streams.open(DEFAULT_ACCOUNT, SESSION, f"wss://127.0.0.1:{port}/")
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"https://127.0.0.1:{port}/")
