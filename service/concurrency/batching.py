"""Many callers' questions asked as one: what comes while one is on its way goes into the next."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from service.domain.errors import StoreUnavailable

Request = TypeVar("Request")
Response = TypeVar("Response")

_MAX_AT_ONCE = 100


class Batcher(Generic[Request, Response]):
    """Asks for all who wait at a time; who comes first asks at once and waits for nobody.

    `ask` takes questions and returns an answer for each, in their order. Two questions of which `subject`
    says the same are never asked in one. A question that cannot be asked spoils no other: then each is
    asked by itself, unless nobody is there to ask.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Request]], Awaitable[Sequence[Response]]],
        *,
        conflict_key: Callable[[Request], Hashable] | None = None,
    ) -> None:
        self._ask = ask
        self._conflict_key = conflict_key or _of_its_own
        self._waiting: list[tuple[Request, asyncio.Future[Response]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being asked, and nobody waits."""
        return self._task is None

    async def __call__(self, question: Request) -> Response:
        """Return the answer to a question. Raises what asking it raises."""
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._settle(self._next())
        finally:
            self._task = None
            _give_up(self._waiting)
            self._waiting = []

    def _next(self) -> list[tuple[Request, "asyncio.Future[Response]"]]:
        batch: list[tuple[Request, asyncio.Future[Response]]] = []
        later: list[tuple[Request, asyncio.Future[Response]]] = []
        conflict_keys = set()
        for waiting in self._waiting:
            conflict_key = self._conflict_key(waiting[0])
            if conflict_key in conflict_keys or len(batch) == _MAX_AT_ONCE:
                later.append(waiting)
            else:
                conflict_keys.add(conflict_key)
                batch.append(waiting)
        self._waiting = later
        return batch

    async def _settle(self, batch: list[tuple[Request, "asyncio.Future[Response]"]]) -> None:
        try:
            answers = await self._ask([question for question, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is raised where each of them is waited for
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for single in batch:
                    await self._settle([single])
                return
            _fail(batch, error)
        else:
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():  # else, who asked has gone
                    waiting.set_result(answer)
        finally:
            _give_up(batch)


def _of_its_own(_: object) -> Hashable:
    return object()


def _fail(batch: Sequence[tuple[Any, "asyncio.Future[Any]"]], error: Exception) -> None:
    for _, waiting in batch:
        if not waiting.done():
            waiting.set_exception(_own(error) if len(batch) > 1 else error)


def _own(error: Exception) -> Exception:
    """Return an error of the caller's own: one that many raise would gather the places of all of them."""
    if not isinstance(error, StoreUnavailable):
        return error
    own = StoreUnavailable(error.detail, **error.extra)
    own.__cause__ = error
    return own


def _give_up(batch: Sequence[tuple[Any, "asyncio.Future[Any]"]]) -> None:
    """Let go who would wait for ever: the asking itself was ended."""
    _fail([each for each in batch if not each[1].done()], StoreUnavailable("what was asked was given up"))
