"""The certificate authorities and the proxy that every client of the vendor uses: those of this machine."""

import functools
import ssl
from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

import httpx2


@functools.cache
def trusted_context() -> ssl.SSLContext:
    """Return the TLS context that trusts the machine's authorities; the process has only this one.

    To read all authorities takes 20 ms and more, and blocks the event loop: too long for each client at the
    start, and far too long for each stream. The context presents no client certificate.
    """
    return httpx2.create_ssl_context()


def proxy_for(address: str) -> str | None:
    """Return the proxy's URL that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name for an address.

    The variables are read as httpx2 reads them, so that calls by aiohttp leave by the same proxy.
    """
    parts, proxies = urlsplit(address), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    entries = [entry.strip().lower() for entry in proxies.get("no", "").split(",")]
    if not proxy or any(_matches(entry, parts) for entry in entries if entry):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _matches(entry: str, address: SplitResult) -> bool:
    """Whether an entry of NO_PROXY (a name, an address, a network or *) covers this address."""
    host = address.hostname or ""
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, _, port = entry.removeprefix("*").partition(":")
    if port and port != str(address.port):
        return False
    return host == name or host.endswith(name if name.startswith(".") or not name else f".{name}")
