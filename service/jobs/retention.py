"""Takes out, a few at a time, what tenants want to be kept no longer."""

import time

from service.store.retention import RetentionRows

# Each is a short transaction of its own; together they hold up the sweep for a fraction of a second.
_BATCH = 20
_LOOK_AGAIN_SECONDS = 600.0


class Retention:
    """Looks every ten minutes, and at once again while there is more."""

    def __init__(self, store: RetentionRows) -> None:
        self._store = store
        self._due = 0.0

    async def run(self) -> None:
        """Take out one batch of content and one of rows, if it is time."""
        if time.monotonic() < self._due:
            return
        taken = 0
        for kept in await self._store.due(_BATCH, rows=False):
            taken += await self._store.erase(kept)
        for kept in await self._store.due(_BATCH, rows=True):
            taken += await self._store.delete(kept)
        if taken < _BATCH:
            self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
