"""Checks of an installation's environment: PostgreSQL, Redis, clocks, disks, the public URL."""

import shutil
import tempfile
import time
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2
from msgspec import Struct

from service.eka.http_exchange import make_http_client
from service.redis.client import close_redis, open_redis, ping_redis, server_info
from service.settings import Settings
from service.store.database import STATEMENT_TIMEOUT_SECONDS, Database
from service.store.server_info import Server, forbidden_tables, look_at_server

# The oldest version that the PostgreSQL project still maintains; the tests run with 18.
_OLDEST_POSTGRESQL = 140_000
# Two of `serve` and two of `worker`: the least that can lose a pod.
_USUAL_PROCESSES = 4
_SKEW_WORTH_A_NOTE_SECONDS = 2.0
_LOOK_SECONDS = 5.0
_OLDEST_REDIS = (6, 2)


class Note(Struct, frozen=True):
    """Something to know that need not be wrong."""

    text: str


Finding = str | Note | None


async def server(database: Database, settings: Settings) -> Finding:
    """Look at PostgreSQL itself: its version, our rights, its limits, its clock."""
    asked = time.time()
    found = await look_at_server(database)
    skew = found.now - (asked + time.time()) / 2
    forbidden = await forbidden_tables(database)
    if forbidden:
        return f"its user may not read and write {', '.join(forbidden)}: grant it, or migrate as that user"
    return judge_server(found, settings, skew)


def judge_server(found: Server, settings: Settings, skew_seconds: float) -> Finding:
    """Say what is wrong with a server, the worst first; a pure function."""
    if found.version < _OLDEST_POSTGRESQL:
        return (
            f"is version {found.version // 10_000}; 18 is what we are tested with, 14 the oldest still kept"
        )
    if found.is_standby:
        return "is a standby, which takes no writes"
    if abs(skew_seconds) > settings.webhook_tolerance_seconds / 2:
        return f"its clock and this machine's differ by {abs(skew_seconds):.0f} s: webhooks will seem stale"
    if 0 < found.statement_timeout_ms < STATEMENT_TIMEOUT_SECONDS * 1000:
        return (
            f"its statement_timeout of {found.statement_timeout_ms} ms ends statements that may take"
            f" {STATEMENT_TIMEOUT_SECONDS:.0f} s"
        )
    allowed = found.connections
    if found.connections_of_role >= 0:
        allowed = min(allowed, found.connections_of_role)
    size = settings.database_pool_size
    if size > allowed:
        return f"allows {allowed} connections, one process may open {size} (DATABASE_POOL_SIZE)"
    if size * _USUAL_PROCESSES > allowed:
        return Note(
            f"allows {allowed} connections: room for {allowed // size} processes of {size} each"
            " (DATABASE_POOL_SIZE); more of them need PgBouncer"
        )
    if abs(skew_seconds) > _SKEW_WORTH_A_NOTE_SECONDS:
        return Note(f"its clock and this machine's differ by {abs(skew_seconds):.1f} s")
    return None


async def redis(settings: Settings) -> Finding:
    """Look at Redis: whether it answers, and whether it throws away what it was given."""
    client = open_redis(settings.redis_url)
    try:
        if not await ping_redis(client):
            return "does not answer; nudges wait for the sweep"
        info = await server_info(client)
        return None if info is None else judge_redis(info)
    finally:
        await close_redis(client)


def judge_redis(info: dict[str, object]) -> Finding:
    """Say what is wrong with a Redis or Valkey by its own words; a pure function."""
    version = str(info.get("redis_version", ""))
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if parts and parts < _OLDEST_REDIS:
        return f"is version {version}; 6.2 is the oldest that the limits of calls work with"
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and info.get("maxmemory"):
        return Note(
            f"evicts by {policy} when it is full: nudges and counts of calls may be lost, nothing else"
        )
    return None


def temporary_files(settings: Settings) -> Finding:
    """Look at where audio is kept while it is sent on."""
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile() as probe:
            probe.write(b"\0")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror})"
    if free < settings.chunk_max_bytes:
        return (
            f"{folder} has {_mebibytes(free)} free, one chunk may take {_mebibytes(settings.chunk_max_bytes)}"
        )
    if free < settings.max_spool_bytes:
        return Note(
            f"{folder} has {_mebibytes(free)} free, uploads may take {_mebibytes(settings.max_spool_bytes)}:"
            " give it more, or set MAX_SPOOL_BYTES lower"
        )
    return None


def _mebibytes(size: int) -> str:
    return f"{size / 1_048_576:,.0f} MiB"


async def check_public_url(public_url: str) -> Finding:
    """Ask ourselves, as EMRs and EkaScribe would; a first look may come before `serve` is started."""
    address = f"{public_url}/health/live"
    try:
        async with make_http_client() as http:
            answer = await http.get(address, timeout=_LOOK_SECONDS)
    except httpx2.HTTPError as error:
        return Note(f"nothing answers at {address} from here ({type(error).__name__}); is `serve` running?")
    if answer.status_code != 200 or b'"alive"' not in answer.content[:200]:  # noqa: PLR2004
        return Note(f"what answers at {address} is not ekabridge ({answer.status_code})")
    if public_url.startswith("http://") and not _is_loopback(urlsplit(public_url).hostname or ""):
        return Note("it is http://: keys, audio and notes would travel in clear; put TLS in front")
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
