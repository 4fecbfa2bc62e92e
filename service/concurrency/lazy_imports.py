"""Libraries without which a process can answer, though not do everything: loaded while it already listens.

aiohttp and arq are a third of what `serve` imports. Who needs one waits for it, if it comes that soon. None
is left to be missed by the first dictation: what is not installed ends the start, what is broken the process.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Libraries:
    """Modules that a thread loads."""

    def __init__(self, *modules: str) -> None:
        """Raise ModuleNotFoundError for a library that is not installed."""
        self._modules = modules
        self._loading: asyncio.Task[None] | None = None
        for name in {module.partition(".")[0] for module in modules}:
            if find_spec(name) is None:
                raise ModuleNotFoundError(f"{name} is not installed", name=name)

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Begin to load; `on_failure` is told why it cannot be done."""

        def look_at(loading: asyncio.Task[None]) -> None:
            if not loading.cancelled() and (error := loading.exception()):
                on_failure(error)

        self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        self._loading.add_done_callback(look_at)

    async def loaded(self) -> None:
        """Wait until all are here. Raises what an import of them raised."""
        if self._loading is None:
            self._load()
        elif not self._loading.done():
            await asyncio.shield(self._loading)
        else:
            self._loading.result()

    def _load(self) -> None:
        for module in self._modules:
            import_module(module)


class Late(Generic[Made]):
    """Something that is made when it is first needed, by when its library is here."""

    def __init__(self, make: Callable[[], Made], loaded: Callable[[], Awaitable[None]]) -> None:
        """Take what makes it, and what to wait for before that."""
        self._make = make
        self._loaded = loaded
        self.made: Made | None = None

    async def get(self) -> Made:
        """Return it. Raises what made its library fail."""
        if self.made is None:
            await self._loaded()
        if self.made is None:  # nobody else made it while this one waited
            self.made = self._make()
        return self.made
