"""Looks up API keys in the database on each request, so that a revocation counts at once on every pod.

Keys are 256 random bits, so nobody can guess one. This module limits the load that guesses put on the
database: it looks up recently valid keys at once, and all other keys in one batch at a time with a pause
after each. So a flood of unknown keys costs fifty small queries a second, and valid keys still work.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from service.concurrency.batching import Batcher
from service.domain.api_keys.models import Principal
from service.domain.errors import RateLimited, StoreUnavailable

_PAUSE_SECONDS = 0.02
_MAX_WAITING = 1000
_MAX_KNOWN = 10_000

_Future = asyncio.Future[Principal | None]


class KeyStore(Protocol):
    """Rows of API keys."""

    async def hash_of(self, key: str) -> bytes | None:
        """Return the keyed hash under which a key is stored; None for text that cannot be a key of ours."""
        ...

    async def principals(self, hashes: list[bytes]) -> dict[bytes, Principal]:
        """Return the principals of the keys that exist and are not revoked, by their hashes."""
        ...


class ApiKeyLookup:
    """Finds the principal of an API key."""

    def __init__(
        self, store: KeyStore, *, pause_seconds: float = _PAUSE_SECONDS, max_waiting: int = _MAX_WAITING
    ) -> None:
        self._store = store
        self._pause_seconds = pause_seconds
        self._max_waiting = max_waiting
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._known_batcher = Batcher(self._look_up_known, unavailable=StoreUnavailable)
        self._unknown: dict[bytes, list[_Future]] = {}
        self._task: asyncio.Task[None] | None = None

    async def principal(self, key: str) -> Principal | None:
        """Return the principal of a key, or None if the key is unknown or revoked.

        Raises RateLimited when too many unknown keys wait already, or StoreUnavailable.
        """
        hashed = await self._store.hash_of(key)
        if hashed is None:
            return None
        if hashed not in self._known:
            return await self._queue_unknown(hashed)
        principal = await self._known_batcher(hashed)
        if principal is None:
            self._known.pop(hashed, None)
        return principal

    async def stop(self) -> None:
        """Stop looking up keys; the process is closing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look_up_known(self, hashes: Sequence[bytes]) -> list[Principal | None]:
        found = await self._store.principals(list(set(hashes)))
        return [found.get(hashed) for hashed in hashes]

    async def _queue_unknown(self, hashed: bytes) -> Principal | None:
        if len(self._unknown) >= self._max_waiting and hashed not in self._unknown:
            raise RateLimited("too many unknown API keys are shown at once", retry_after_seconds=1)
        future: _Future = asyncio.get_running_loop().create_future()
        self._unknown.setdefault(hashed, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_up_unknown())
        return await future

    async def _look_up_unknown(self) -> None:
        asked: dict[bytes, list[_Future]] = {}
        try:
            while self._unknown:
                asked, self._unknown = self._unknown, {}
                try:
                    found = await self._store.principals(list(asked))
                except StoreUnavailable as error:
                    _fail(asked, error.detail)
                    return
                for hashed, futures in asked.items():
                    principal = found.get(hashed)
                    if principal is not None:
                        self._remember(hashed)
                    for future in futures:
                        if not future.done():  # else the caller was cancelled
                            future.set_result(principal)
                await asyncio.sleep(self._pause_seconds)
        finally:
            _fail(asked | self._unknown, "the keys could not be looked up")
            self._unknown.clear()

    def _remember(self, hashed: bytes) -> None:
        self._known[hashed] = None
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _fail(asked: dict[bytes, list[_Future]], detail: str) -> None:
    for futures in asked.values():
        for future in futures:
            if not future.done():
                future.set_exception(StoreUnavailable(detail))
