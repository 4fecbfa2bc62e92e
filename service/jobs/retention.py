"""Retention: erases content and deletes rows and kept audio of sessions that are past their retention.

This module decides the pace. A tenant's days are set in service/domain/tenants/changes.py; which sessions are
due and how they are removed is in service/store/retention.py.
"""

import time

from service.store.retention import RetentionRows

# Each erasure is a short transaction; a batch delays the sweep by a fraction of a second.
_BATCH = 20
# 64 MiB at most.
_MAX_BLOCKS = 64
_LOOK_AGAIN_SECONDS = 600.0


class RetentionJob:
    """Removes what is due every ten minutes, and at each round of the sweep while a full batch was found."""

    def __init__(self, store: RetentionRows) -> None:
        self._store = store
        self._due = 0.0

    async def run(self) -> None:
        """Erase a batch of content, delete a batch of rows and one of kept audio, if the interval is over."""
        if time.monotonic() < self._due:
            return
        count = 0
        for due in await self._store.due(_BATCH, rows=False):
            count += await self._store.erase(due)
        for due in await self._store.due(_BATCH, rows=True):
            count += await self._store.delete(due)
        blocks = await self._store.purge_audio(_MAX_BLOCKS)
        if count < _BATCH and blocks < _MAX_BLOCKS:
            self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
