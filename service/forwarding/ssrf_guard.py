"""Refuses connections of deliveries, token requests and downloads to private addresses (SSRF).

At the moment of connecting, the guard resolves the name, checks every address, and connects to a checked
address, so that DNS cannot change between check and use. Redirects and literal addresses go through the same
check.
"""

import re
import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Protocol

import httpcore2
import httpx2

from service.domain.errors import DestinationForbidden
from service.forwarding.name_resolution import NameResolver, NameUnresolvedError, look_up
from service.forwarding.per_host_pools import PoolsByAddress
from service.http_client.response_limits import LimitedBackend

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
# Versions of Python disagree on these, or cannot know them: protocol assignments (a cloud's metadata among
# them), 6to4 relays, Azure's host agent, and documentation (RFC 9637).
_REFUSED_V4 = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_REFUSED_V6 = IPv6Network("3fff::/20")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
# Not the event loop's own resolver: the names of the vendor and the database need its few threads.
_RESOLVER = NameResolver(look_up)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME = 253
_MAX_PORT = 65_535
_KEEPALIVE_SECONDS = 15.0
# Head and framing included; the sender reads less of the content.
_MAX_ANSWER_BYTES = 1024 * 1024
# Per address.
_MAX_CONNECTIONS = 200
_KEPT_CONNECTIONS = 16


class AddressForbiddenError(Exception):
    """The name resolves to an address that no destination may have."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address belongs to the public Internet, tunnels unwrapped.

    `is_global` alone is not enough: it is true for NAT64-wrapped loopback, site-local, IPv4-compatible and
    multicast addresses (docs/libraries.md#guard-addresses). An address that is not known to be public is
    refused.
    """
    if isinstance(address, IPv4Address):
        if any(address in network for network in _REFUSED_V4):
            return False
        return address.is_global and not address.is_multicast and not address.is_reserved
    inner = _tunnelled(address)
    if inner is not None:
        return is_public(inner)
    return (
        address in _GLOBAL_UNICAST
        and address not in _REFUSED_V6
        and address.is_global
        and not address.is_multicast
    )


def _tunnelled(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as text. Raises NameUnresolvedError."""
    return await _RESOLVER.resolve(host, port)


def check_addresses(addresses: Iterable[str]) -> None:
    """Raise AddressForbiddenError unless all addresses of a name are public; one bad address is enough."""
    for text in addresses:
        if not is_public(ip_address(text.partition("%")[0])) or "%" in text:
            raise AddressForbiddenError(text)


async def check_destination_url(url: str, *, allow_private: bool, field: str = "url") -> None:
    """Check the URL of a destination when it is registered. Raises DestinationForbidden for its `field`.

    A name that does not resolve at this moment is accepted, because each connection checks it again.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise DestinationForbidden("the URL cannot be read", field=field) from None
    _check_parts(parsed, allow_private=allow_private, field=field)
    if allow_private:
        return
    if f".{parsed.host.lower().removesuffix('.')}".endswith(".localhost"):
        # Our own machine, whatever a resolver answers (RFC 6761, 6.3).
        raise DestinationForbidden("the URL leads to a private or reserved address", field=field)
    try:
        check_addresses(await resolve(parsed.host, parsed.port or 443))
    except AddressForbiddenError:
        raise DestinationForbidden("the URL leads to a private or reserved address", field=field) from None
    except NameUnresolvedError:
        return


def _check_parts(parsed: httpx2.URL, *, allow_private: bool, field: str) -> None:
    if parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"):
        raise DestinationForbidden("the URL must start with https://", field=field)
    if parsed.userinfo:
        raise DestinationForbidden("the URL must not hold credentials", field=field)
    if parsed.fragment or not parsed.host:
        raise DestinationForbidden("the URL must name a host and have no fragment", field=field)
    if not _is_name(parsed.raw_host.decode("ascii", "replace")) and not _is_address(parsed.host):
        raise DestinationForbidden("the URL's host is neither a name nor an address", field=field)
    if parsed.port is not None and not 1 <= parsed.port <= _MAX_PORT:
        raise DestinationForbidden("the URL's port is none", field=field)


def _is_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in labels)


def _is_address(text: str) -> bool:
    try:
        # A zone names an interface of this machine, which no destination may choose.
        return getattr(ip_address(text), "scope_id", None) is None
    except ValueError:
        return False


class Resolver(Protocol):
    """Resolves names to addresses."""

    async def __call__(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name."""
        ...


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """A network backend that connects only to checked addresses."""

    def __init__(self, *, allow_private: bool, resolver: Resolver = resolve) -> None:
        self._inner = httpcore2.AnyIOBackend()
        self._allow_private = allow_private
        self._resolve = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's own name
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, check, and connect to the first of the checked addresses that answers."""
        addresses = await self._resolve(host, port)
        if not self._allow_private:
            check_addresses(addresses)
        failure: Exception = NameUnresolvedError(host)
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address,
                    port,
                    timeout=timeout,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait, as the interface demands."""
        await self._inner.sleep(seconds)


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """An HTTP transport over a GuardedBackend; it uses no proxy, which would bypass the check."""

    def __init__(self, backend: GuardedBackend, ssl_context: ssl.SSLContext | None = None) -> None:
        context = ssl_context or httpx2.create_ssl_context()
        super().__init__(verify=context, trust_env=False)
        # httpx2 has no parameter for the network backend, but its connection pool has one.
        self._pool = PoolsByAddress(
            lambda: httpcore2.AsyncConnectionPool(
                ssl_context=context,
                max_connections=_MAX_CONNECTIONS,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_SECONDS,
                network_backend=LimitedBackend(backend, _MAX_ANSWER_BYTES),
            ),
            idle_seconds=_KEEPALIVE_SECONDS,
        )
