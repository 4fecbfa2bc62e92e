"""Retention: erases content and deletes rows that are older than their tenant wants them kept."""

import time

from service.store.retention import RetentionRows

# Each erasure is a short transaction; a batch delays the sweep by a fraction of a second.
_BATCH = 20
_LOOK_AGAIN_SECONDS = 600.0


class Retention:
    """Looks every ten minutes, and at the next round while a full batch was found."""

    def __init__(self, store: RetentionRows) -> None:
        self._store = store
        self._due = 0.0

    async def run(self) -> None:
        """Erase one batch of content and delete one batch of rows, if the interval is over."""
        if time.monotonic() < self._due:
            return
        count = 0
        for kept in await self._store.due(_BATCH, rows=False):
            count += await self._store.erase(kept)
        for kept in await self._store.due(_BATCH, rows=True):
            count += await self._store.delete(kept)
        if count < _BATCH:
            self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
