"""Shows how much audio is held for EkaScribe, and since when, for dashboards and alerts."""

import asyncio

import structlog
from prometheus_client import Gauge

from service.jobs.leader import run_as_leader
from service.observability.logging import describe_failure
from service.store.held_audio import HeldAudioRows
from service.store.named_leases import NamedLeaseRows

log = structlog.get_logger()

BYTES = Gauge(
    "ekabridge_held_audio_bytes",
    "Audio in the store: held for EkaScribe, or kept after its session ended badly.",
    ("state",),
)
LIMIT = Gauge("ekabridge_held_audio_limit_bytes", "Audio that may be in the store: HELD_AUDIO_MAX_BYTES.")
OLDEST = Gauge(
    "ekabridge_held_audio_oldest_seconds",
    "For how long the session that waits longest has been held, by the call that it waits for.",
    ("call",),
)


class HeldAudioMonitor:
    """Runs in one worker at a time; only that worker shows the gauges."""

    def __init__(
        self,
        *,
        leases: NamedLeaseRows,
        held_audio: HeldAudioRows,
        max_held_bytes: int,
        interval_seconds: float = 15.0,
    ) -> None:
        self._leases = leases
        self._held_audio = held_audio
        self._interval_seconds = interval_seconds
        LIMIT.set(max_held_bytes)

    async def run(self, stopping: asyncio.Event) -> None:
        """Count until `stopping` is set."""
        await run_as_leader(
            "held_audio",
            leases=self._leases,
            interval_seconds=self._interval_seconds,
            stopping=stopping,
            count=self._count,
            hide=_hide,
            failed=lambda error: log.error("held_audio_not_counted", **describe_failure(error)),
        )

    async def _count(self) -> None:
        figures = await self._held_audio.figures()
        BYTES.labels("held").set(figures.held_bytes)
        BYTES.labels("kept").set(figures.kept_bytes)
        OLDEST.labels("create").set(figures.oldest_create_seconds)
        OLDEST.labels("audio").set(figures.oldest_audio_seconds)


def _hide() -> None:
    for gauge in (BYTES, OLDEST):
        gauge.clear()
