"""Many small writes as one: what comes while a statement runs goes into the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

_MOST_AT_ONCE = 200

Values = tuple[Any, ...]
Row = TypeVar("Row")
Answer = TypeVar("Answer")


class Batches(Generic[Row, Answer]):
    """Hands rows over in batches; no row waits for others that may come.

    `write` takes rows and returns what became of each, in their order.
    """

    def __init__(self, write: Callable[[Sequence[Row]], Awaitable[Sequence[Answer]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Row, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no batch is being written, and none waits."""
        return self._task is None

    async def add(self, row: Row) -> Answer:
        """Write a row; what became of it. Raises what its batch raised."""
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await done

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
                await self._settle(batch)
        finally:
            self._task = None

    async def _settle(self, batch: list[tuple[Row, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._write([row for row, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where each of the rows is waited for
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), answer in zip(batch, answers, strict=True):
            if not done.done():
                done.set_result(answer)
