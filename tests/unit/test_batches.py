"""Small writes in batches: none waits for company, each learns of its own."""

from __future__ import annotations

import asyncio

import pytest

from service.store.batches import Batches


class Table:
    """Writes what it is given when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = asyncio.Event()
        self.failure: Exception | None = None

    async def write(self, rows):
        self.batches.append([row[0] for row in rows])
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        return [row[1] == "good" for row in rows]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_first_goes_at_once_and_what_comes_meanwhile_goes_together():
    table = Table()
    batches = Batches(table.write)
    adding = [asyncio.create_task(batches.add(("a", "good")))]
    await turn()
    assert table.batches == [["a"]]
    adding += [asyncio.create_task(batches.add((name, kind))) for name, kind in (("b", "good"), ("c", "bad"))]
    await turn()
    assert table.batches == [["a"]]
    table.free.set()
    assert await asyncio.gather(*adding) == [True, True, False]
    assert table.batches == [["a"], ["b", "c"]]
    assert await batches.add(("d", "good"))


async def test_a_failure_is_raised_to_each_of_its_batch_and_to_nobody_else():
    table = Table()
    table.free.set()
    table.failure = ConnectionError("away")
    batches = Batches(table.write)
    answers = await asyncio.gather(*(batches.add((name, "good")) for name in "ab"), return_exceptions=True)
    assert [type(each) for each in answers] == [ConnectionError, ConnectionError]
    table.failure = None
    assert await batches.add(("c", "good"))


async def test_one_that_is_not_waited_for_any_more_costs_no_other():
    table = Table()
    batches = Batches(table.write)
    gone = asyncio.create_task(batches.add(("a", "good")))
    stays = asyncio.create_task(batches.add(("b", "good")))
    await turn()
    gone.cancel()
    table.free.set()
    assert await stays
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_batch_has_a_limit():
    table = Table()
    table.free.set()
    batches = Batches(table.write)
    await asyncio.gather(*(batches.add((str(number), "good")) for number in range(450)))
    assert [len(batch) for batch in table.batches] == [200, 200, 50]
