"""By which proxy the vendor is called: the environment, read as httpx2 reads it for all other calls."""

from contextlib import suppress
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies


def proxy_for(address: str) -> str | None:
    """Return the proxy's URL that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name for an address."""
    parts, proxies = urlsplit(address), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    entries = [entry.strip().lower() for entry in proxies.get("no", "").split(",")]
    if not proxy or any(_means(entry, parts) for entry in entries if entry):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _means(entry: str, address: SplitResult) -> bool:
    """Whether an entry of NO_PROXY, which is a name, an address, a network or *, means this address."""
    host = address.hostname or ""
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, _, port = entry.removeprefix("*").partition(":")
    if port and port != str(address.port):
        return False
    return host == name or host.endswith(name if name.startswith(".") or not name else f".{name}")
