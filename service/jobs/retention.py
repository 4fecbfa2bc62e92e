"""Retention: erases content and deletes rows and audio that are older than their tenant wants them kept."""

import time

from service.store.retention import RetentionRows

# Each erasure is a short transaction; a batch delays the sweep by a fraction of a second.
_BATCH = 20
# 64 MiB at most.
_MAX_BLOCKS = 64
_LOOK_AGAIN_SECONDS = 600.0


class Retention:
    """Looks every ten minutes, and at the next round while a full batch was found."""

    def __init__(self, store: RetentionRows) -> None:
        self._store = store
        self._due = 0.0

    async def run(self) -> None:
        """Erase a batch of content, delete a batch of rows and one of kept audio, if the interval is over."""
        if time.monotonic() < self._due:
            return
        count = 0
        for kept in await self._store.due(_BATCH, rows=False):
            count += await self._store.erase(kept)
        for kept in await self._store.due(_BATCH, rows=True):
            count += await self._store.delete(kept)
        blocks = await self._store.purge_audio(_MAX_BLOCKS)
        if count < _BATCH and blocks < _MAX_BLOCKS:
            self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
