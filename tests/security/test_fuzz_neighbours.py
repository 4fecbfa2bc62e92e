"""What EkaScribe, a hospital's endpoint or a stream's client says is understood, or refused in our terms."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.sessions import SessionChange
from service.domain.deliveries.attempts import judge
from service.domain.deliveries.models import Answer
from service.domain.errors import DestinationForbidden, VendorError
from service.domain.ids import DEFAULT_ACCOUNT, DeliveryId, SessionId, TemplateId
from service.domain.retry_schedule import read_retry_after
from service.domain.streams.relay import Relay
from service.domain.streams.sides import ClientGone, VendorGone
from service.eka.audio_client import AudioClient
from service.eka.call_limiter import CallLimiters
from service.eka.client import EkaClient
from service.eka.discovery import read_limits
from service.eka.fields import read_time
from service.eka.response_parsing import read_error_code
from service.forwarding.ssrf_guard import (
    AddressForbiddenError,
    GuardedBackend,
    NameUnresolvedError,
    check_destination_url,
    is_public,
)
from tests.support.examples import json_values, share
from tests.support.fakes import MemoryDownloads
from tests.support.stream_sides import Side

BASE = "https://eka.example"
SESSION = SessionId("ses_x")
TEMPLATE = TemplateId("soap")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
# Answers with the vendor's own words in them, right and wrong.
times = st.text(max_size=30) | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
session_answers = st.fixed_dictionaries(
    {},
    optional={
        "session_id": json_values,
        "status": json_values
        | st.sampled_from(["completed", "failed", "expired", "processing", "cancelled"]),
        "expires_at": json_values | times,
        "upload_url": json_values,
        "transcript": json_values,
        "templates": json_values
        | st.lists(st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), json_values))),
        "document_id": json_values,
        "audio_files_received": json_values,
        "error": json_values | st.dictionaries(st.sampled_from(["code", "message"]), json_values),
        "detail": json_values,
    },
)
bodies = st.binary(max_size=80) | session_answers.map(lambda value: json.dumps(value).encode())
statuses = st.sampled_from(
    [200, 201, 202, 204, 206, 301, 400, 401, 404, 409, 410, 422, 429, 500, 502, 503, 504]
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


class OneToken:
    """The vendor's login, left out."""

    async def token(self, _: Any) -> Any:
        """A token."""
        return self

    async def renew(self, _: Any, __: Any) -> Any:
        """No other one."""

    access_token = "token"


CALLS: dict[str, Callable[[EkaClient], Awaitable[Any]]] = {
    "get": lambda eka: eka.get_session(DEFAULT_ACCOUNT, SESSION, TEMPLATE),
    "end": lambda eka: eka.end_session(DEFAULT_ACCOUNT, SESSION, 1),
    "change": lambda eka: eka.change_session(DEFAULT_ACCOUNT, SESSION, SessionChange(languages=["en"])),
    "further": lambda eka: eka.make_document(DEFAULT_ACCOUNT, SESSION, TEMPLATE),
}


@share(2)
@given(call=st.sampled_from(sorted(CALLS)), status=statuses, body=bodies, retry_after=header_values)
@example(call="get", status=200, body=b'{"expires_at": "9999-12-31T23:59:59-23:59"}', retry_after="1")
@example(call="get", status=200, body=b'{"templates":' * 5000, retry_after="1")
@example(
    call="get", status=200, body=b'{"templates": [{"a": null}, {"a": {"data": "\\ud800"}}]}', retry_after="1"
)
async def test_any_answer_of_the_vendor_is_read_or_an_error_of_our_tree(
    call: str, status: int, body: bytes, retry_after: str
) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"retry-after": retry_after})

    transport = httpx2.MockTransport(answer)
    async with httpx2.AsyncClient(transport=transport) as http, AudioClient(BASE) as audio:
        tokens: Any = OneToken()
        eka = EkaClient(
            http=http,
            audio=audio,
            tokens=tokens,
            call_limiters=CallLimiters(max_calls=8),
            downloads=MemoryDownloads(),
            base_url=BASE,
        )
        with contextlib.suppress(VendorError):
            result = await CALLS[call](eka)
            if call == "get" and result.expires_at is not None:
                result.expires_at.astimezone(UTC)  # as the database will ask of it


@given(times | st.datetimes(timezones=st.timezones()).map(str))
@example("9999-12-31T23:59:59-23:59")
@example("0001-01-01T00:00:00+23:59")
def test_any_time_of_the_vendor_is_a_moment_or_none(text: str) -> None:
    moment = read_time(text)
    if moment is not None:
        assert moment.astimezone(UTC).tzinfo is UTC


@share(4)
@given(bodies)
def test_an_error_s_code_is_a_word_and_never_a_message(body: bytes) -> None:
    code = read_error_code(body)
    assert code is None or (code.isascii() and " " not in code and "_" in code)


@share(4)
@given(st.dictionaries(st.text(max_size=10), json_values, max_size=3) | session_answers)
@example({"capabilities": {"max_chunk_size_mb": 1e308, "audio_formats": ["audio/wav\r\nx: y"]}})
@example({"models": [{"id": "x", "max_session_duration_seconds": 10**400}]})
def test_any_discovery_document_leaves_limits(document: dict[str, Any]) -> None:
    limits = read_limits(document)
    assert limits.audio_formats
    assert limits.models
    assert all(each.isprintable() for each in limits.audio_formats)


@given(
    header_values
    | st.text(max_size=40)
    | st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
)
@example("9" * 5000)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("0 0 0 0:")
@example("٣")
def test_any_retry_after_is_at_most_a_day(text: str) -> None:
    seconds = read_retry_after(text, NOW)
    assert seconds is None or 0 <= seconds <= 86_400


@share(2)
@given(
    status=st.integers(100, 599),
    excerpt=bodies | json_values.map(lambda value: json.dumps(value).encode()),
    location=st.none() | st.text(max_size=60),
    echoed=st.none() | st.text(max_size=30) | st.just("dlv_1"),
)
@example(status=200, excerpt=b"[" * 100_000, location=None, echoed=None)
@example(status=200, excerpt=b'{"id": ' + b"9" * 5000 + b"}", location=None, echoed=None)
@example(status=201, excerpt=b'{"id": "\\u0000"}', location="https://x/\0", echoed=None)
@example(status=200, excerpt=b'{"entry": [{"response": {"location": "a/b"}}]}', location=None, echoed=None)
def test_any_answer_of_a_destination_is_judged(
    status: int, excerpt: bytes, location: str | None, echoed: str | None
) -> None:
    verdict = judge(
        Answer(
            status_code=status,
            retry_after_seconds=None,
            location=location,
            echoed_id=echoed,
            excerpt=excerpt,
            size=len(excerpt),
            sha256=b"",
            duration_ms=1,
        ),
        DeliveryId("dlv_1"),
    )
    assert (verdict.kind == "delivered") is (200 <= status < 300) or status == 409
    if verdict.record_id is not None:
        assert "\0" not in verdict.record_id
        assert 0 < len(verdict.record_id) <= 256


# What IANA's registries of special-purpose addresses say is no host of the Internet, written a second time.
NOT_PUBLIC_V4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
NOT_PUBLIC_V6 = [ip_network(text) for text in ("2001:2::/48", "2001:10::/28", "2001:db8::/32", "3fff::/20")]


def may_be_public(address: IPv4Address | IPv6Address) -> bool:
    """By those registries; an address that wraps another one is judged by what it wraps."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    number = int(address)
    wrapped = {
        IPv6Network("::ffff:0:0/96"): number,
        IPv6Network("64:ff9b::/96"): number,
        IPv6Network("2002::/16"): number >> 80,
        IPv6Network("2001::/32"): ~number,
    }
    for network, inner in wrapped.items():
        if address in network:
            return may_be_public(IPv4Address(inner & 0xFFFFFFFF))
    if address not in IPv6Network("2000::/3"):
        return False
    return not any(address in network for network in NOT_PUBLIC_V6)


v4_addresses = st.ip_addresses(v=4) | st.sampled_from(NOT_PUBLIC_V4).flatmap(
    lambda network: st.ip_addresses(network=network)
)


@given(v4_addresses)
def test_no_special_address_is_public(address: IPv4Address) -> None:
    assert not is_public(address) or may_be_public(address)


@given(
    st.ip_addresses(v=6)
    | st.sampled_from(
        ["::ffff:0:0/96", "64:ff9b::/96", "2002::/16", "2001::/32", "2000::/3", "::/96"]
    ).flatmap(lambda network: st.ip_addresses(network=network))
    | v4_addresses.map(lambda inner: IPv6Address((0x64FF9B << 96) | int(inner)))
    | v4_addresses.map(lambda inner: IPv6Address((0xFFFF << 32) | int(inner)))
    | v4_addresses.map(lambda inner: IPv6Address((0x2002 << 112) | (int(inner) << 80) | 1))
    | v4_addresses.map(lambda inner: IPv6Address((0x20010000 << 96) | (~int(inner) & 0xFFFFFFFF)))
)
def test_no_special_address_of_version_6_is_public(address: IPv6Address) -> None:
    assert not is_public(address) or may_be_public(address)


def spellings(address: IPv4Address) -> list[str]:
    """How one address can be written in a URL: what resolvers and libc take beside four decimals."""
    number, octets = int(address), address.packed
    return [
        str(address), str(number), hex(number), f"0{number:o}",
        ".".join(f"0{octet:o}" for octet in octets), ".".join(hex(octet) for octet in octets),
        f"{octets[0]}.{number & 0xFFFFFF}", f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
        f"[::ffff:{address}]", f"[64:ff9b::{address}]", f"[::{address}]",
        "".join(chr(0xFF10 + int(letter)) if letter.isdigit() else "。" for letter in str(address)),
    ]  # fmt: skip


@given(
    st.sampled_from(NOT_PUBLIC_V4).flatmap(lambda network: st.ip_addresses(network=network)),
    st.integers(0, 11),
    st.sampled_from(["https://{}/", "https://{}:443/a", "https://{}:8443", "HTTPS://{}/?q"]),
)
async def test_no_spelling_of_a_special_address_is_a_destination(
    address: IPv4Address, which: int, form: str
) -> None:
    url = form.format(spellings(address)[which])
    with pytest.raises(DestinationForbidden):
        await check_destination_url(url, allow_private=False)
    # And if it had been registered before it was one: no connection is made.
    with pytest.raises((AddressForbiddenError, NameUnresolvedError, httpx2.InvalidURL)):
        await GuardedBackend(allow_private=False).connect_tcp(httpx2.URL(url).host, 443, timeout=1)


@given(st.text(max_size=80) | st.text(max_size=40).map(lambda text: f"https://{text}/hook"))
@example("https://user:password@emr.example/")
@example("https://emr.example\\@127.0.0.1/")
@example("https://[::1%25eth0]/")
@example("https://emr.example:0/")
@example("https://" + "a." * 200)
async def test_any_url_is_a_destination_or_forbidden(url: str) -> None:
    """With private addresses allowed, so that no name is asked of a resolver."""
    with contextlib.suppress(DestinationForbidden):
        await check_destination_url(url, allow_private=True)
        parsed = httpx2.URL(url)
        assert parsed.scheme in {"http", "https"}
        assert parsed.host
        assert not parsed.userinfo
        assert not parsed.fragment


frames = st.binary(max_size=40) | st.text(max_size=40) | json_values.map(json.dumps)
envelopes = st.dictionaries(st.text(max_size=5), json_values, max_size=2).map(
    lambda more: json.dumps(more | {"event": "mark"})
)


class FlushingVendor(Side):
    """Closes when it has heard a `stop`, as the real one does."""

    async def send(self, frame: Any) -> None:
        """Take a frame."""
        await super().send(frame)
        if isinstance(frame, str) and json.loads(frame)["event"] == "stop":
            self.coming.put_nowait(VendorGone(1000))


@share(2)
@given(st.lists(frames | envelopes, max_size=8))
@example(['{"event":' * 30_000])
@example(["[" * 100_000])
@example(['{"event": 1}', "x"])
@example(['{"event": "go", "event": "stop"}', b"later"])
async def test_frames_pass_unchanged_and_in_order_until_one_is_no_envelope(sent: list[bytes | str]) -> None:
    client, vendor = Side("client", []), FlushingVendor("vendor", [])
    for frame in [*sent, ClientGone(1000)]:
        client.coming.put_nowait(frame)
    async with asyncio.timeout(20):
        close_reason = await Relay(client, vendor).run()
    taken = vendor.taken
    assert taken == sent[: len(taken)]
    assert all(isinstance(json.loads(frame)["event"], str) for frame in taken if isinstance(frame, str))
    if close_reason.cause == "client_closed":
        assert taken == sent
    elif close_reason.cause == "bad_frame":
        assert close_reason.code == 1007
        assert isinstance(sent[len(taken)], str)
    else:
        assert close_reason.cause == "stopped"
        assert json.loads(taken[-1])["event"] == "stop"


@share(4)
@given(st.lists(st.binary(max_size=20) | envelopes, max_size=8))
async def test_good_frames_pass_all(sent: list[bytes | str]) -> None:
    client, vendor = Side("client", []), FlushingVendor("vendor", [])
    for frame in [*sent, ClientGone(1000)]:
        client.coming.put_nowait(frame)
    async with asyncio.timeout(20):
        assert (await Relay(client, vendor).run()).cause == "client_closed"
    assert vendor.taken == sent
