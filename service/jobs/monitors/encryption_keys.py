"""Tells the registry with which key this process seals, and notices when it lacks one that others use."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

import structlog

from service.domain.errors import StoreUnavailable
from service.domain.ids import SessionId
from service.observability.logging import failure
from service.store.encryption import MissingKeyError
from service.store.encryption_keys import SEALER_SECONDS, EncryptionKeyRows

log = structlog.get_logger()
Job = TypeVar("Job")

_LEAVE_SECONDS = 2.0


class EncryptionKeyMonitor:
    """Runs for as long as the process does; readiness asks the registry by itself."""

    def __init__(self, keys: EncryptionKeyRows) -> None:
        self._keys = keys
        self._process = uuid4()
        self._task: asyncio.Task[None] | None = None
        self.has_joined = False
        self.is_missing_one = False

    async def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Say that this process seals nothing more; a database that is away need not know."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.has_joined:
            try:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._keys.leave(self._process)
            except (StoreUnavailable, TimeoutError):
                log.warning("key_watch_left_without_a_word")

    def gated(
        self, claim: Callable[[SessionId | None, int], Awaitable[list[Job]]]
    ) -> Callable[[SessionId | None, int], Awaitable[list[Job]]]:
        """Have nothing claimed while a key is missing: those who have it shall do the work."""

        async def claim_if_complete(session_id: SessionId | None, limit: int) -> list[Job]:
            return [] if self.is_missing_one else await claim(session_id, limit)

        return claim_if_complete

    async def _run(self) -> None:
        while True:
            try:
                await self._keys.renew(self._process)
                self.has_joined, self.is_missing_one = True, False
            except StoreUnavailable:
                pass  # whoever cannot write seals nothing
            except MissingKeyError as error:
                self.is_missing_one = True
                log.error("encryption_key_missing", key_ids=error.key_ids)
            except Exception as error:  # noqa: BLE001 - a process boundary: the next round comes
                log.error("key_watch_failed", **failure(error))
            await asyncio.sleep(SEALER_SECONDS / 4)
