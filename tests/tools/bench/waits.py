"""How long was waited, of many times."""

import statistics

from msgspec import Struct


class Waits(Struct, kw_only=True):
    """Milliseconds, each of one wait."""

    waits_ms: list[float] = []

    @property
    def median_ms(self) -> float:
        """Half of them were as short."""
        return statistics.median(self.waits_ms)

    @property
    def p95_ms(self) -> float:
        """All but a twentieth were as short."""
        return sorted(self.waits_ms)[int(len(self.waits_ms) * 0.95)]
