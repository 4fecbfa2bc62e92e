"""Many small writes as one: what comes while a statement runs goes into the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

_MOST_AT_ONCE = 200

Values = tuple[Any, ...]


class Batches:
    """Hands rows over in batches; no row waits for others that may come.

    `write` takes rows and returns the ids, which stand first in each, that it wrote.
    """

    def __init__(self, write: Callable[[Sequence[Values]], Awaitable[set[str]]]) -> None:
        self._write = write
        self._waiting: list[tuple[Values, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, values: Values) -> bool:
        """Write a row; whether it was written. Raises what its batch raised."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((values, done))
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

    async def _settle(self, batch: list[tuple[Values, "asyncio.Future[bool]"]]) -> None:
        try:
            written = await self._write([values for values, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where each of the rows is waited for
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for values, done in batch:
            if not done.done():
                done.set_result(values[0] in written)
