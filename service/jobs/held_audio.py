"""Keeps held audio moving, and deletes audio that nobody needs any more. The sweep's leader runs both."""

import time

import structlog

from service.store.held_audio import HeldAudioRows

log = structlog.get_logger()

# A session that ended badly keeps its audio for so long, so that it can be exported.
KEPT_SECONDS = 7 * 86_400.0
_MAX_REPAIRED = 100
# 64 MiB at most: a batch delays the sweep by a fraction of a second.
_MAX_PURGED_BLOCKS = 64
_LOOK_AGAIN_SECONDS = 600.0


class HeldAudioUpkeep:
    """Repairs held sessions at each round; purges every ten minutes, or at once while there is more."""

    def __init__(self, store: HeldAudioRows) -> None:
        self._store = store
        self._purge_due = 0.0

    async def repair(self) -> None:
        """Make the handover of held sessions without a pending call due again.

        Only a worker of the version before held audio can leave such a session, during an upgrade.
        """
        for session_id in await self._store.repair(_MAX_REPAIRED):
            log.warning("held_audio_repaired", session_id=session_id)

    async def purge(self) -> None:
        """Delete one batch of blocks whose sessions have had their ending for a week."""
        if time.monotonic() < self._purge_due:
            return
        purged = await self._store.purge(KEPT_SECONDS, _MAX_PURGED_BLOCKS)
        if purged:
            log.info("kept_audio_purged", blocks=purged)
        if purged < _MAX_PURGED_BLOCKS:
            self._purge_due = time.monotonic() + _LOOK_AGAIN_SECONDS
