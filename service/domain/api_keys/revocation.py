"""Tells long-running responses when their API key is revoked, with one query a second per process."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context

import structlog

from service.domain.errors import StoreUnavailable
from service.domain.ids import KeyId

log = structlog.get_logger()

_INTERVAL_SECONDS = 1.0


class RevocationPoller:
    """Polls the keys of long-running calls and remembers the revoked ones."""

    def __init__(
        self,
        active_keys: Callable[[list[KeyId]], Awaitable[set[KeyId]]],
        *,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._active_keys = active_keys
        self._interval_seconds = interval_seconds
        self._watched: Counter[KeyId] = Counter()
        self._revoked: set[KeyId] = set()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, key_id: KeyId) -> Iterator[None]:
        """Watch a key inside the block, while the service answers a call with it."""
        self._watched[key_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), context=Context())
        try:
            yield
        finally:
            self._watched[key_id] -= 1
            if not self._watched[key_id]:
                del self._watched[key_id]
                self._revoked.discard(key_id)

    def is_revoked(self, key_id: KeyId) -> bool:
        """Return whether a watched key is revoked."""
        return key_id in self._revoked

    async def stop(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _poll(self) -> None:
        while self._watched:
            asked = set(self._watched)
            try:
                active = await self._active_keys(list(asked))
                self._revoked |= (asked - active) & set(self._watched)
            except StoreUnavailable:
                log.warning("revocations_unknown", reason="store_unavailable")
            await asyncio.sleep(self._interval_seconds)
