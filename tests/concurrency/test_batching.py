"""Questions asked together: each asker gets its own answer, and no other's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.concurrency.batching import Batcher
from service.domain.errors import StoreUnavailable


class Asked:
    """Answers `n` with `2 n` when it is let; `bad` numbers cannot be asked."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.bad: set[int] = set()
        self.failures: list[BaseException] = []

    async def __call__(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        await self.free.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.bad & set(questions):
            raise ValueError(f"{questions}")
        return [2 * question for question in questions]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def ask_all(gathered: Batcher[int, int], *questions: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(gathered(question)) for question in questions]


async def found(tasks: list[asyncio.Task[int]]) -> list[Any]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def with_first_under_way(gathered: Batcher[int, int], *questions: int) -> list[asyncio.Task[int]]:
    """Asks 0 by itself, and the questions while that is on its way: they go together."""
    tasks = ask_all(gathered, 0)
    await turns()
    tasks += ask_all(gathered, *questions)
    await turns()
    return tasks


async def test_the_first_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    asked = Asked()
    tasks = await with_first_under_way(Batcher(asked, unavailable=StoreUnavailable), 5, 3, 5, 4)
    assert asked.batches == [[0]]
    asked.free.set()
    assert await found(tasks) == [0, 10, 6, 10, 8]
    assert asked.batches == [[0], [5, 3, 5, 4]]


@pytest.mark.parametrize("conflict_key", [None, lambda question: question])
async def test_so_many_are_asked_at_once_and_no_more(conflict_key: Any) -> None:
    asked = Asked()
    tasks = await with_first_under_way(
        Batcher(asked, unavailable=StoreUnavailable, conflict_key=conflict_key), *range(1, 251)
    )
    asked.free.set()
    assert await found(tasks) == [2 * number for number in range(251)]
    assert [len(batch) for batch in asked.batches] == [1, 100, 100, 50]
    assert [number for batch in asked.batches for number in batch] == list(range(251))


async def test_no_two_of_a_subject_are_asked_in_one_and_they_keep_their_order() -> None:
    asked = Asked()
    gathered = Batcher(asked, unavailable=StoreUnavailable, conflict_key=lambda question: question % 10)
    tasks = await with_first_under_way(gathered, 1, 11, 2, 21, 12, 1)
    asked.free.set()
    assert await found(tasks) == [0, 2, 22, 4, 42, 24, 2]
    assert asked.batches == [[0], [1, 2], [11, 12], [21], [1]]


async def test_a_bad_question_spoils_no_other() -> None:
    asked = Asked()
    asked.bad = {7, 8}
    tasks = await with_first_under_way(Batcher(asked, unavailable=StoreUnavailable), 1, 7, 2, 8, 3)
    asked.free.set()
    answers = await found(tasks)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 2, 4, 6]
    assert [str(answer) for answer in answers if isinstance(answer, ValueError)] == ["[7]", "[8]"]
    assert asked.batches[1:] == [[1, 7, 2, 8, 3], [1], [7], [2], [8], [3]]


async def test_without_anybody_to_ask_all_are_told_at_once_and_the_next_are_asked_again() -> None:
    asked = Asked()
    gathered = Batcher(asked, unavailable=StoreUnavailable)
    tasks = await with_first_under_way(gathered, 1, 2, 3)
    asked.failures = [ConnectionError("odd"), StoreUnavailable("away", since=5)]
    asked.free.set()
    first, *others = await found(tasks)
    assert isinstance(first, ConnectionError)
    assert [(type(each), each.detail, each.extra) for each in others] == [
        (StoreUnavailable, "away", {"since": 5})
    ] * 3
    assert asked.batches == [[0], [1, 2, 3]]
    assert await found(ask_all(gathered, 4)) == [8]


async def test_each_asker_raises_an_error_of_its_own() -> None:
    """One that all of them raised held the places and the troubles of the others."""
    asked = Asked()
    gathered = Batcher(asked, unavailable=StoreUnavailable)
    tasks = await with_first_under_way(gathered)
    met: list[StoreUnavailable] = []

    async def asker_in_trouble(number: int) -> None:
        try:
            raise KeyError(number)
        except KeyError:
            try:
                await gathered(number)
            except StoreUnavailable as error:
                met.append(error)

    askers = [asyncio.create_task(asker_in_trouble(number)) for number in (1, 2, 3)]
    await turns()
    away = StoreUnavailable("away")
    asked.failures = [away, away]
    asked.free.set()
    await asyncio.gather(*tasks, *askers, return_exceptions=True)
    assert len({id(error) for error in met}) == 3
    assert [error.__context__.args for error in met if error.__context__ is not None] == [(1,), (2,), (3,)]
    assert all(error.__cause__ is away for error in met)  # where it came from is not lost


async def test_one_that_goes_away_costs_no_other_its_answer() -> None:
    asked = Asked()
    tasks = await with_first_under_way(Batcher(asked, unavailable=StoreUnavailable), 1, 2, 3)
    tasks[0].cancel()
    tasks[2].cancel()
    await turns()
    asked.free.set()
    answers = await found(tasks)
    assert [answers[1], answers[3]] == [2, 6]
    assert [type(answers[0]), type(answers[2])] == [asyncio.CancelledError] * 2


async def test_one_that_goes_away_while_a_failure_is_told_costs_nothing() -> None:
    asked = Asked()
    asked.bad = {1, 2}
    tasks = await with_first_under_way(Batcher(asked, unavailable=StoreUnavailable), 1, 2, 3)
    asked.free.set()
    tasks[1].cancel()
    answers = await found(tasks)
    assert [type(answer) for answer in answers] == [int, asyncio.CancelledError, ValueError, int]


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), GeneratorExit()])
async def test_nobody_waits_for_ever_when_the_asking_itself_is_ended(failure: BaseException) -> None:
    asked = Asked()
    gathered = Batcher(asked, unavailable=StoreUnavailable)
    tasks = await with_first_under_way(gathered, 1, 2)
    asked.failures = [failure]
    running = gathered._task
    asked.free.set()
    assert [type(answer) for answer in await found(tasks)] == [StoreUnavailable] * 3
    assert running is not None
    await asyncio.gather(running, return_exceptions=True)
    assert await found(ask_all(gathered, 4)) == [8]


async def test_an_answer_that_is_missing_is_seen_and_nobody_waits_for_it() -> None:
    async def forgetful(questions: Sequence[int]) -> list[int]:
        return [0]

    gathered = Batcher(forgetful, unavailable=StoreUnavailable)
    tasks = ask_all(gathered, 1, 2)
    await asyncio.sleep(0)
    running = gathered._task
    assert running is not None
    answers = await found(tasks)
    assert StoreUnavailable in [type(answer) for answer in answers]
    with pytest.raises(ValueError, match="zip"):
        await running
