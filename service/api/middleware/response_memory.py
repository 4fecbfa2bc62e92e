"""The memory of large answers to clients: taken before their rows are read, given back when they are sent.

A client that reads slowly keeps its answer here for as long as it reads. When others wait for room, the
connection of a client that reads too slowly is cut.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from random import randint

from service.api.middleware.load_monitor import REFUSED
from service.concurrency.memory_budget import CLIENT_ANSWERS_BYTES
from service.domain.errors import Overloaded
from service.domain.ids import TenantId
from service.domain.sessions.change_polling import share_of

_MAX_WAIT_SECONDS = 5.0
_CHECK_SECONDS = 0.25
# When others wait, an answer may take a moment, and after it as long as at this rate.
_GRACE_SECONDS = 2.0
_MIN_BYTES_PER_SECOND = 1024 * 1024
_RETRY_AFTER_SECONDS = (2, 8)
# A row as it is stored, its text, and the answer made of it.
_COPIES = 3


class ResponsePermit:
    """What one request holds of the memory."""

    def __init__(self, memory: "ResponseMemory", disconnect: Callable[[], None] | None) -> None:
        self._memory = memory
        self._disconnect = disconnect
        self.tenant: TenantId | None = None
        self.size = 0
        self.since = 0.0

    async def acquire(self, stored_bytes: int) -> None:
        """Take what an answer of so many stored bytes costs, until it is sent. Raises Overloaded."""
        await self._memory.acquire(self, stored_bytes * _COPIES)

    def on_ready(self, size: int) -> None:
        """The answer is made: from now on only its own bytes are held."""
        if self.size > size:
            self._memory.release(self, self.size - size)

    def release(self) -> None:
        """The answer is sent, or nobody wants it any more."""
        self._disconnect = None  # it knows the request, which knows this: garbage would be left behind
        if self.size:
            self._memory.release(self, self.size)

    def disconnect(self) -> None:
        """Give the client up."""
        if self._disconnect is not None:
            self._disconnect()


class ResponseMemory:
    """The part of all answers together, of which one tenant has three quarters at most."""

    def __init__(
        self,
        max_bytes: int = CLIENT_ANSWERS_BYTES,
        *,
        max_wait_seconds: float = _MAX_WAIT_SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
    ) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._max_wait_seconds = max_wait_seconds
        self._grace_seconds = grace_seconds
        self._used_by_tenant: Counter[TenantId | None] = Counter()
        self._holders: dict[ResponsePermit, None] = {}
        self._freed = asyncio.Event()

    async def acquire(self, permit: ResponsePermit, size: int) -> None:
        """Take so many bytes, waiting for a moment if there are none. Raises Overloaded."""
        loop = asyncio.get_running_loop()
        # What is larger than a share has all of it to itself.
        size = min(size, share_of(self.max_bytes) - permit.size)
        deadline = loop.time() + self._max_wait_seconds
        while not self._fits(permit, size):
            now = loop.time()
            if now >= deadline:
                REFUSED.labels("answers", "memory").inc()
                raise Overloaded(
                    "more large answers are read here than there is memory for",
                    retry_after_seconds=randint(*_RETRY_AFTER_SECONDS),  # noqa: S311 - scatters, hides nothing
                )
            self._disconnect_slow(now)
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._freed.wait()
        permit.since = loop.time()
        permit.size += size
        self.used_bytes += size
        self._used_by_tenant[permit.tenant] += size
        self._holders[permit] = None

    def release(self, permit: ResponsePermit, size: int) -> None:
        """Give so many of a permit's bytes back."""
        permit.size -= size
        self.used_bytes -= size
        self._used_by_tenant[permit.tenant] -= size
        if not permit.size:
            self._holders.pop(permit, None)
        if not self._used_by_tenant[permit.tenant]:
            del self._used_by_tenant[permit.tenant]
        self._freed.set()

    def _fits(self, permit: ResponsePermit, size: int) -> bool:
        is_free = self.used_bytes + size <= self.max_bytes
        return is_free and self._used_by_tenant[permit.tenant] + size <= share_of(self.max_bytes)

    def _disconnect_slow(self, now: float) -> None:
        for permit in list(self._holders):
            if now - permit.since > self._grace_seconds + permit.size / _MIN_BYTES_PER_SECOND:
                permit.disconnect()


_CURRENT: ContextVar[ResponsePermit | None] = ContextVar("ekabridge_answer_permit", default=None)


def begin_response(permit: ResponsePermit) -> None:
    """Make this the permit of the request that is served."""
    _CURRENT.set(permit)


async def reserve_response(stored_bytes: int) -> None:
    """Take the memory for an answer of so many stored bytes, before they are read. Raises Overloaded."""
    permit = _CURRENT.get()
    if permit is not None:
        await permit.acquire(stored_bytes)
