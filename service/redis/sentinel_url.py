"""Parses the address of a Redis behind Sentinel: `redis+sentinel://host:port,host:port/master/database`."""

from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379
_OPTIONS = frozenset({"sentinel_username", "sentinel_password", "ssl_ca_certs"})


class SentinelAddress(Struct, frozen=True, kw_only=True):
    """The sentinels, the name of the master that they watch, and the logins of both."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int
    username: str | None
    password: str | None
    sentinel_username: str | None
    sentinel_password: str | None
    tls: bool
    ca_file: str | None


def parse_sentinel(url: str) -> SentinelAddress:
    """Parse the URL. Raises ValueError, which names the mistake and quotes no value: some are secrets."""
    scheme, _, rest = url.partition("://")
    authority, _, rest = rest.partition("/")
    # The authority is parsed apart: urlsplit of newer Pythons refuses an IPv6 address in a list of hosts.
    parts = urlsplit(f"/{rest}")
    login, _, hosts = authority.rpartition("@")
    username, _, password = login.partition(":")
    master, _, database = parts.path.strip("/").partition("/")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not master:
        raise ValueError("names no master: redis+sentinel://host:26379,host:26379/master")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("must have the number of a database after the master's name")
    if options.keys() - _OPTIONS:
        raise ValueError(f"knows the options {', '.join(sorted(_OPTIONS))}")
    return SentinelAddress(
        sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
        master=unquote(master),
        database=int(database or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        tls=scheme.startswith("rediss"),
        ca_file=options.get("ssl_ca_certs"),
    )


def _sentinel(text: str) -> tuple[str, int]:
    try:
        # Each host alone is a valid authority, so urlsplit reads its port and the brackets of IPv6.
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError("has a sentinel that is not host:port")
    return host, port or _SENTINEL_PORT
