"""The real clock."""

import asyncio
import random
from datetime import UTC, datetime


class SystemClock:
    """The domain's Clock: the system's time, a random number, a real wait."""

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)

    def chance(self) -> float:
        """A random number from 0 to 1; it spreads waits, so it need not be secret."""
        return random.random()  # noqa: S311 - it spreads waits, it guards nothing

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
