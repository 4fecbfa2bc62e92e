"""Resolves host names in threads, so that names whose nameserver never answers do not occupy all threads.

The system's resolver cannot be cancelled: it holds its thread for ten seconds and more after the last caller
gave up. The number of such abandoned threads decides which names are still resolved. With a few of them,
names that got no answer last time are refused; with more of them, unknown names are refused, too.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

MAX_THREADS = 32
_MAX_ABANDONED_FOR_HUNG = MAX_THREADS // 4
_MAX_ABANDONED_FOR_NEW = MAX_THREADS * 3 // 4
_WAIT_SECONDS = 5.0
_REMEMBERED = 10_000

Lookup = Callable[[str, int], list[str]]


class NameUnresolvedError(Exception):
    """The name has no address."""


class NameResolver:
    """Resolves names, each once at a time, and remembers which names were answered."""

    def __init__(self, lookup: Lookup, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._lookup = lookup
        self._wait_seconds = wait_seconds
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="destination-dns")
        self._running: dict[tuple[str, int], Future[list[str]]] = {}
        self._abandoned: set[Future[list[str]]] = set()
        self._was_answered: dict[str, bool] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name, as text. Raises NameUnresolvedError."""
        running = self._running.get((host, port))
        if running is None or running.done():
            running = self._start(host, port)
        elif running in self._abandoned:
            raise NameUnresolvedError(host)
        try:
            async with asyncio.timeout(self._wait_seconds):
                # Shielded, because a caller that gives up must not cancel the lookup for the others.
                found = await asyncio.shield(asyncio.wrap_future(running))
        except TimeoutError:
            self._abandoned.add(running)
            self._remember(host, was_answered=False)
            raise NameUnresolvedError(host) from None
        self._remember(host, was_answered=True)
        if not found:
            raise NameUnresolvedError(host)
        return found

    def _start(self, host: str, port: int) -> Future[list[str]]:
        self._running = {name: each for name, each in self._running.items() if not each.done()}
        self._abandoned = {each for each in self._abandoned if not each.done()}
        if len(self._abandoned) >= self._max_abandoned(host):
            raise NameUnresolvedError(host)
        running = self._running[host, port] = self._threads.submit(self._lookup, host, port)
        return running

    def _max_abandoned(self, host: str) -> int:
        match self._was_answered.get(host):
            case True:
                return MAX_THREADS
            case False:
                return _MAX_ABANDONED_FOR_HUNG
            case None:
                return _MAX_ABANDONED_FOR_NEW

    def _remember(self, host: str, *, was_answered: bool) -> None:
        self._was_answered.pop(host, None)
        self._was_answered[host] = was_answered
        if len(self._was_answered) > _REMEMBERED:
            del self._was_answered[next(iter(self._was_answered))]


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a name as the system resolves it; none where it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
