"""Resolves host names in threads, so that names whose nameserver never answers do not occupy all threads.

The system's resolver cannot be cancelled: it holds its thread for ten seconds and more after the last caller
gave up. The number of busy threads decides which names may be resolved next: beside a few, names that got no
answer last time wait; beside more, unknown names wait, too; and the names of one tenant get a quarter. A
lookup that waits for a thread has not begun, and says nothing about its name.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar

MAX_THREADS = 32
# Threads that one tenant may use, and with names that resolved before.
_MAX_OF_OWNER = MAX_THREADS // 4
_MAX_OF_OWNER_FOR_ANSWERED = MAX_THREADS * 3 // 4
_MAX_BUSY_FOR_HUNG = MAX_THREADS // 4
_MAX_BUSY_FOR_NEW = MAX_THREADS * 3 // 4
_WAIT_SECONDS = 5.0
_REMEMBERED = 10_000

Lookup = Callable[[str, int], list[str]]
# The tenant for whose delivery names are looked up; None where nobody said.
LOOKUP_OWNER: ContextVar[str | None] = ContextVar("ekabridge_lookup_owner", default=None)


class NameUnresolvedError(Exception):
    """The name has no address."""


class ResolverBusyError(NameUnresolvedError):
    """No thread was free in time: the name was not looked up."""


class NameResolver:
    """Resolves names, each once at a time, and remembers which names were answered."""

    def __init__(self, lookup: Lookup, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._lookup = lookup
        self._wait_seconds = wait_seconds
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="destination-dns")
        # With the owner that each was begun for. Never more than there are threads: none waits in the pool.
        self._running: dict[tuple[str, int], tuple[Future[list[str]], str | None]] = {}
        self._abandoned: set[Future[list[str]]] = set()
        self._waiting: set[asyncio.Event] = set()
        self._was_answered: dict[str, bool] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name, as text. Raises NameUnresolvedError."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                running = await self._running_or_begun(host, port)
        except TimeoutError:
            raise ResolverBusyError(host) from None
        if running in self._abandoned:
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

    async def _running_or_begun(self, host: str, port: int) -> Future[list[str]]:
        owner = LOOKUP_OWNER.get()
        while True:
            running = self._running.get((host, port))
            if running is not None and not running[0].done():
                return running[0]
            self._running = {name: each for name, each in self._running.items() if not each[0].done()}
            self._abandoned = {each for each in self._abandoned if not each.done()}
            if self._may_begin(host, owner):
                return self._begin(host, port, owner)
            await self._next_end()

    def _may_begin(self, host: str, owner: str | None) -> bool:
        of_owner = sum(each == owner for _, each in self._running.values())
        was_answered = self._was_answered.get(host, False)
        max_of_owner = _MAX_OF_OWNER_FOR_ANSWERED if was_answered else _MAX_OF_OWNER
        return of_owner < max_of_owner and len(self._running) < self._max_busy(host)

    def _begin(self, host: str, port: int, owner: str | None) -> Future[list[str]]:
        loop = asyncio.get_running_loop()
        begun = self._threads.submit(self._lookup, host, port)
        self._running[host, port] = begun, owner

        def ended(_: Future[list[str]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._wake)

        begun.add_done_callback(ended)
        return begun

    async def _next_end(self) -> None:
        ended = asyncio.Event()
        self._waiting.add(ended)
        try:
            await ended.wait()
        finally:
            self._waiting.discard(ended)

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.set()

    def _max_busy(self, host: str) -> int:
        match self._was_answered.get(host):
            case True:
                return MAX_THREADS
            case False:
                return _MAX_BUSY_FOR_HUNG
            case None:
                return _MAX_BUSY_FOR_NEW

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
