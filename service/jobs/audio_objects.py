"""Deletes the objects of audio that is deleted: those whose row is gone, and those that never got one."""

import asyncio
import time

import structlog

from service.jobs.leader import run_as_leader
from service.observability.logging import describe_failure
from service.store.audio_objects import AudioObjectRows
from service.store.named_leases import NamedLeaseRows

log = structlog.get_logger()

_LIST_SECONDS = 6 * 3600.0


class AudioObjectCleanup:
    """Runs in one worker at a time: deletes every few seconds, and lists the object store every six hours."""

    def __init__(
        self, *, leases: NamedLeaseRows, objects: AudioObjectRows, interval_seconds: float = 5.0
    ) -> None:
        self._leases = leases
        self._objects = objects
        self._interval_seconds = interval_seconds
        self._list_due = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Clean up until `stopping` is set."""
        await run_as_leader(
            "audio_objects",
            leases=self._leases,
            interval_seconds=self._interval_seconds,
            stopping=stopping,
            count=self.once,
            hide=lambda: None,
            failed=lambda error: log.error("audio_objects_not_deleted", **describe_failure(error)),
        )

    async def once(self) -> None:
        """Delete what is due, and every six hours what has no row."""
        while await self._objects.delete_due():
            pass
        if time.monotonic() >= self._list_due:
            orphans = await self._objects.delete_orphans()
            self._list_due = time.monotonic() + _LIST_SECONDS
            if orphans:
                log.info("audio_orphans_deleted", objects=orphans)
