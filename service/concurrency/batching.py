"""Batches the calls of many callers: calls that arrive while one batch runs form the next batch."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from copy import copy
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")

_MAX_BATCH_SIZE = 100


class Batcher(Generic[Request, Response]):
    """Runs one batch at a time; a request that finds none running starts one at once.

    `run` takes requests and returns a response for each, in their order. The batcher never puts two requests
    with the same `conflict_key` into one batch. An error of type `unavailable` fails the whole batch once,
    because single requests would fail in the same way. After any other error the batcher runs each request
    alone, so that a bad request fails only itself. `unavailable` is constructed from a message.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Request]], Awaitable[Sequence[Response]]],
        *,
        unavailable: type[Exception],
        conflict_key: Callable[[Request], Hashable] | None = None,
    ) -> None:
        self._run = run
        self._unavailable = unavailable
        self._conflict_key = conflict_key or _no_conflict
        self._waiting: list[tuple[Request, asyncio.Future[Response]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no batch runs and no request waits."""
        return self._task is None

    async def __call__(self, request: Request) -> Response:
        """Return the response to a request. Raises the error that `run` raised for it."""
        response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, response))
        if self._task is None:
            # In a context of its own: its batches belong to no single caller.
            self._task = asyncio.create_task(self._run_batches(), context=Context())
        return await response

    async def _run_batches(self) -> None:
        try:
            while self._waiting:
                await self._run_batch(self._next_batch())
        finally:
            self._task = None
            self._abandon(self._waiting)
            self._waiting = []

    def _next_batch(self) -> list[tuple[Request, "asyncio.Future[Response]"]]:
        batch: list[tuple[Request, asyncio.Future[Response]]] = []
        later: list[tuple[Request, asyncio.Future[Response]]] = []
        conflict_keys = set()
        for waiting in self._waiting:
            conflict_key = self._conflict_key(waiting[0])
            if conflict_key in conflict_keys or len(batch) == _MAX_BATCH_SIZE:
                later.append(waiting)
            else:
                conflict_keys.add(conflict_key)
                batch.append(waiting)
        self._waiting = later
        return batch

    async def _run_batch(self, batch: list[tuple[Request, "asyncio.Future[Response]"]]) -> None:
        try:
            responses = await self._run([request for request, _ in batch])
        except Exception as error:  # noqa: BLE001 - each caller that waits raises it
            if isinstance(error, self._unavailable):
                _fail_all(batch, error)
            elif len(batch) == 1:
                _fail(batch[0][1], error)
            else:
                for single in batch:
                    await self._run_batch([single])
        else:
            for (_, waiting), response in zip(batch, responses, strict=True):
                if not waiting.done():  # else the caller was cancelled
                    waiting.set_result(response)
        finally:
            self._abandon(batch)

    def _abandon(self, batch: Sequence[tuple[Any, "asyncio.Future[Any]"]]) -> None:
        """Fail the requests that nobody will answer because the batcher's own task ends."""
        unanswered = [each for each in batch if not each[1].done()]
        if unanswered:
            _fail_all(unanswered, self._unavailable("the batch of this request was abandoned"))


def _no_conflict(_: object) -> Hashable:
    return object()


def _fail_all(batch: Sequence[tuple[Any, "asyncio.Future[Any]"]], error: Exception) -> None:
    """Give each caller a copy of the error; one shared object would collect the tracebacks of all callers."""
    for _, waiting in batch:
        own = error
        if len(batch) > 1:
            own = copy(error)
            own.__cause__ = error
        _fail(waiting, own)


def _fail(waiting: "asyncio.Future[Any]", error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
