"""A record outlasts a database that is away for a moment, and nothing else."""

from __future__ import annotations

import pytest

from service.domain.errors import NotFound, StoreUnavailable
from service.domain.write_retry import write_until_stored
from tests.support.makers import TurnedClock


class Store:
    """Is away for so many writes."""

    def __init__(self, away: int, error: Exception | None = None) -> None:
        self.away = away
        self.error = error or StoreUnavailable("away")
        self.writes = 0

    async def write(self) -> str:
        self.writes += 1
        if self.writes <= self.away:
            raise self.error
        return "written"


async def test_a_record_is_written_as_soon_as_the_database_is_back():
    store, clock = Store(away=7), TurnedClock()
    assert await write_until_stored(store.write, clock) == "written"
    assert (store.writes, clock.waits) == (8, [0.5] * 7)


async def test_a_database_that_stays_away_is_given_up_after_twenty_seconds():
    store, clock = Store(away=1000), TurnedClock()
    with pytest.raises(StoreUnavailable):
        await write_until_stored(store.write, clock)
    assert sum(clock.waits) == 20


async def test_another_error_is_not_tried_again():
    store = Store(away=1, error=NotFound("gone"))
    with pytest.raises(NotFound):
        await write_until_stored(store.write, TurnedClock())
    assert store.writes == 1
