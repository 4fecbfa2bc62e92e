"""Destinations must not lead into our own network (docs/libraries.md#guard-addresses)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpcore2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.clock import SystemClock
from service.domain.deliveries.models import Answer, CallFailure
from service.domain.errors import DestinationForbidden
from service.forwarding.name_resolution import NameUnresolvedError
from service.forwarding.sender import HttpSender
from service.forwarding.ssrf_guard import (
    AddressForbiddenError,
    GuardedBackend,
    check_addresses,
    check_destination_url,
    is_public,
)
from tests.support.makers import make_delivery_job, wanted

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "13.127.159.148",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450:4001::5",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
PRIVATE = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.1.2.3", "127.255.255.255", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12:3456::1"],
    "link-local and metadata": [
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "fe80::1",
        "fd00:ec2::254",
    ],
    "carrier-grade NAT": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.1", "198.18.0.1", "198.19.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0"],
    "compatible": ["::127.0.0.1", "::10.0.0.1", "::8.8.8.8"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::1", "2002:c0a8:101::1"],
    "Teredo": ["2001:0:808:808:0:0:80ff:fffe", "2001:0:808:808::f5ff:fffe", "2001:0:808:808::5601:5601"],
    "site-local and discard": ["fec0::1", "feff::1", "100::1"],
    "outside global unicast": ["1::1", "4000::1", "5f00::1", "e000::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", [each for kind in PRIVATE.values() for each in kind], ids=lambda address: address
)
def test_what_is_not_the_public_internet_is_refused(address):
    assert not is_public(ip_address(address))
    with pytest.raises(AddressForbiddenError):
        check_addresses(["8.8.8.8", address])


@given(st.ip_addresses(v=4))
@example(IPv4Address("169.254.169.254"))
def test_a_tunnel_is_as_public_as_what_it_leads_to(inner):
    number = int(inner)
    for tunnel in (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | (number ^ 0xFFFFFFFF)),
    ):
        assert is_public(tunnel) is is_public(inner)


@given(st.ip_addresses(v=6))
def test_nothing_outside_2000_3_is_public_but_a_tunnel(address):
    if is_public(address) and int(address) >> 125 != 1:
        assert address.ipv4_mapped or address in IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize(
    "address", ["fe80::1%eth0", "2606:4700::1111%eth0", "::1%lo", "2606:4700::1111%25eth0"]
)
def test_an_address_with_a_zone_is_local_by_its_nature(address):
    with pytest.raises(AddressForbiddenError):
        check_addresses([address])


def test_one_bad_address_spoils_a_name():
    assert check_addresses(["8.8.8.8", "2606:4700::1111"]) is None
    for addresses in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"]):
        with pytest.raises(AddressForbiddenError):
            check_addresses(addresses)


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/hooks",
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
        "javascript:alert(1)",
        "//8.8.8.8/",
        "/hooks",
        "",
        "https://",
        "https:///hooks",
        "https://user@8.8.8.8/",
        "https://user:secret@8.8.8.8/",
        "https://:secret@8.8.8.8/",
        "https://8.8.8.8/#part",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://0/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fec0::1]/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127。0。0。1/",
        "https://\x00/",
        "https://8.8.8.8\t/",
        "HTTPS://127.0.0.1/",
        "https://8.8.8.8@127.0.0.1/",
        "https://127.0.0.1:99999/",
        "https://localhost./",
        "https://LOCALHOST/",
        "https://emr.localhost/",
        "https://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
        "https://127\u200b.0.0.1/",
        "https://127\u00ad.0.0.1/",
        "https://127%2e0.0.1/",
        "https://127.0.0.1%2f@8.8.8.8/",
        "https://8.8.8.8\\@127.0.0.1/",
        "https://127.0.0.1\\.8.8.8.8/",
        "https://[fe80::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1%25lo]/",
        "https://[2606:4700::1111%25eth0]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[0:0:0:0:0:ffff:169.254.169.254]/",
        "https://127.0.0.1:443/",
        "https://8.8.8.8:-1/",
        "data:text/plain,a",
        "unix:///run/redis.sock",
        "wss://8.8.8.8/",
    ],
)
async def test_a_url_that_must_not_be_called_is_refused(url):
    with pytest.raises(DestinationForbidden) as refusal:
        await check_destination_url(url, allow_private=False)
    assert "secret" not in refusal.value.detail


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "0"])
async def test_a_port_that_does_not_exist_is_refused(port):
    with pytest.raises(DestinationForbidden):
        await check_destination_url(f"https://8.8.8.8:{port}/", allow_private=False)


@pytest.mark.parametrize("host", ["[", "a..b", "exa mple.com", "a%00b.com", "a" * 300 + ".com"])
async def test_a_host_that_cannot_be_one_is_refused_when_it_is_registered(host):
    with pytest.raises(DestinationForbidden):
        await check_destination_url(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://8.8.8.8/hooks",
        "https://8.8.8.8:8443/hooks?token=1",
        "https://[2606:4700::1111]/hooks",
        "HTTPS://8.8.8.8/",
        "https://no-such-name.invalid/",
        "https://bücher.invalid/",
        "https://no-such-name.invalid./",
    ],
)
async def test_a_public_url_and_a_name_that_does_not_resolve_yet_are_let_through(url):
    assert await check_destination_url(url, allow_private=False) is None


async def test_in_development_private_addresses_and_http_are_let_through_but_no_credentials():
    assert await check_destination_url("http://127.0.0.1:8000/hooks", allow_private=True) is None
    for url in ("http://user:pw@127.0.0.1/", "ftp://127.0.0.1/", "http://127.0.0.1/#a"):
        with pytest.raises(DestinationForbidden):
            await check_destination_url(url, allow_private=True)


class Names:
    """A Resolver that answers each question with the next list of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self._answers.pop(0)


class Listener:
    """A server on loopback that counts who comes and answers 204."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        except asyncio.IncompleteReadError:
            pass  # connected, refused before the first byte
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    async with await asyncio.start_server(listener.take, "127.0.0.1", 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener


@asynccontextmanager
async def sending(names: Names, *, allow_private: bool) -> AsyncIterator[HttpSender]:
    backend = GuardedBackend(allow_private=allow_private, resolver=names)
    sender = HttpSender(backend=backend, clock=SystemClock(), timeout_seconds=5)
    try:
        yield sender
    finally:
        await sender.close()


async def test_a_name_that_turns_private_between_check_and_call_is_refused():
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    check_addresses(await names("emr.example", 80))  # as it was when the destination was registered
    async with listening() as listener, sending(names, allow_private=False) as sender:
        url = f"http://emr.example:{listener.port}/hooks"
        outcome = await sender.send(make_delivery_job(url=url), wanted)
        assert listener.heads == []
    assert isinstance(outcome, CallFailure)
    assert (outcome.error_class, outcome.is_forbidden) == ("forbidden_address", True)


async def test_a_name_with_one_private_address_among_public_ones_is_refused():
    backend = GuardedBackend(allow_private=False, resolver=Names(["8.8.8.8", "10.0.0.1"]))
    with pytest.raises(AddressForbiddenError):
        await backend.connect_tcp("emr.example", 443)


async def test_the_connection_goes_to_the_address_that_was_checked_and_the_name_is_asked_once():
    async with listening() as listener:
        names = Names(["127.0.0.1"])
        async with sending(names, allow_private=True) as sender:
            outcome = await sender.send(
                make_delivery_job(url=f"http://emr.example:{listener.port}/hooks"), wanted
            )
        assert isinstance(outcome, Answer)
        assert outcome.status_code == 204
        assert names.asked == [("emr.example", listener.port)]
        assert f"host: emr.example:{listener.port}".encode() in listener.heads[0].lower()


async def test_an_address_in_the_url_passes_through_the_same_door():
    async with listening() as listener, sending(Names(["127.0.0.1"]), allow_private=False) as sender:
        outcome = await sender.send(make_delivery_job(url=f"http://127.0.0.1:{listener.port}/"), wanted)
        assert listener.heads == []
    assert isinstance(outcome, CallFailure)
    assert outcome.is_forbidden


async def test_the_next_address_is_tried_when_one_does_not_answer():
    async with listening() as listener:
        # Nobody listens on the second loopback address at that port.
        backend = GuardedBackend(allow_private=True, resolver=Names(["127.0.0.2", "127.0.0.1"]))
        stream = await backend.connect_tcp("emr.example", listener.port, timeout=5)
        assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"
        await stream.aclose()


async def test_a_name_without_addresses_and_a_port_without_a_server_are_told_apart():
    with pytest.raises(NameUnresolvedError):
        await GuardedBackend(allow_private=True, resolver=Names([])).connect_tcp("emr.example", 80)
    async with listening() as listener:
        port = listener.port
    with pytest.raises(httpcore2.ConnectError):
        await GuardedBackend(allow_private=True, resolver=Names(["127.0.0.1"])).connect_tcp(
            "emr.example", port
        )


@pytest.mark.parametrize("port", [99_999, 65_536])
async def test_an_impossible_port_is_a_failed_attempt_and_not_an_exception(port):
    async with sending(Names(["127.0.0.1"]), allow_private=True) as sender:
        outcome = await sender.send(make_delivery_job(url=f"https://emr.example:{port}/"), wanted)
    assert isinstance(outcome, CallFailure)


@pytest.mark.parametrize(
    "address",
    ["168.63.129.16", "192.0.0.192", "192.88.99.1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1"],
)
def test_what_pythons_differ_on_or_cannot_know_is_refused(address):
    """Metadata services, relays, and a tunnel's host number around a private address."""
    assert not is_public(ip_address(address))


async def test_a_refusal_names_the_field_that_held_the_url():
    with pytest.raises(DestinationForbidden) as refusal:
        await check_destination_url("https://127.0.0.1/", allow_private=False, field="auth.token_url")
    assert refusal.value.extra == {"field": "auth.token_url"}
