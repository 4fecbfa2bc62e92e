"""Bounds the memory of large responses.

A request reserves memory before it reads the rows and releases it when the response is sent. A client that
reads slowly holds the memory of its response for all that time. If other requests wait for memory, the
connection of a client that reads too slowly is cut.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

from service.api.middleware.request_class import refusal
from service.concurrency.memory_budget import CLIENT_ANSWERS_BYTES
from service.domain.ids import TenantId
from service.domain.sessions.change_polling import tenant_quota

_MAX_WAIT_SECONDS = 5.0
_CHECK_SECONDS = 0.25
# While others wait, a client must read its response within this time plus the response's size divided by this
# rate.
_GRACE_SECONDS = 2.0
_MIN_BYTES_PER_SECOND = 1024 * 1024
_RETRY_AFTER_SECONDS = (2, 8)
# Memory holds the stored row, its decrypted text, and the encoded response.
_COPIES = 3


class ResponsePermit:
    """The memory that one request holds for its response."""

    def __init__(self, memory: "ResponseMemory", disconnect: Callable[[], None] | None) -> None:
        self._memory = memory
        self._disconnect = disconnect
        self.tenant: TenantId | None = None
        self.size = 0
        self.since = 0.0

    async def acquire(self, stored_bytes: int) -> None:
        """Reserve the memory for a response made of so many stored bytes. Raises Overloaded."""
        await self._memory.acquire(self, stored_bytes * _COPIES)

    def on_ready(self, size: int) -> None:
        """Release all but the bytes of the finished response, `size`; row and text are garbage now."""
        if self.size > size:
            self._memory.release(self, self.size - size)

    def on_progress(self) -> None:
        """Note that the client has read a part of a streamed response: its time for the next begins."""
        self.since = self._memory.now()

    def release(self) -> None:
        """Release everything; the request is over."""
        # Breaks a reference cycle with the request, which would stay in memory until a garbage collection.
        self._disconnect = None
        if self.size:
            self._memory.release(self, self.size)

    def disconnect(self) -> None:
        """Cut the client's connection, unless the request is over."""
        if self._disconnect is not None:
            self._disconnect()


class ResponseMemory:
    """The memory for the responses of a process; one tenant may use three quarters of it."""

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
        """Reserve bytes for a permit, waiting a few seconds if none are free. Raises Overloaded."""
        loop = asyncio.get_running_loop()
        # A response larger than one tenant's share gets the whole share, or it could never be sent.
        size = min(size, tenant_quota(self.max_bytes) - permit.size)
        deadline = loop.time() + self._max_wait_seconds
        while not self._fits(permit, size):
            now = loop.time()
            if now >= deadline:
                detail = "more large answers are read here than there is memory for"
                raise refusal("answers", "memory", detail, _RETRY_AFTER_SECONDS)
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
        """Release some of a permit's bytes."""
        permit.size -= size
        self.used_bytes -= size
        self._used_by_tenant[permit.tenant] -= size
        if not permit.size:
            self._holders.pop(permit, None)
        if not self._used_by_tenant[permit.tenant]:
            del self._used_by_tenant[permit.tenant]
        self._freed.set()

    @staticmethod
    def now() -> float:
        """Return the time by which permits are compared."""
        return asyncio.get_running_loop().time()

    def _fits(self, permit: ResponsePermit, size: int) -> bool:
        is_free = self.used_bytes + size <= self.max_bytes
        return is_free and self._used_by_tenant[permit.tenant] + size <= tenant_quota(self.max_bytes)

    def _disconnect_slow(self, now: float) -> None:
        for permit in list(self._holders):
            if now - permit.since > self._grace_seconds + permit.size / _MIN_BYTES_PER_SECOND:
                permit.disconnect()


_CURRENT: ContextVar[ResponsePermit | None] = ContextVar("ekabridge_answer_permit", default=None)


def begin_response(permit: ResponsePermit) -> None:
    """Make this the permit of the current request."""
    _CURRENT.set(permit)


def response_progressed() -> None:
    """Note that the client of the current request has read a part of its streamed response."""
    permit = _CURRENT.get()
    if permit is not None:
        permit.on_progress()


async def reserve_response(stored_bytes: int) -> None:
    """Reserve memory for stored bytes that the current request is about to read. Raises Overloaded.

    The store calls this; outside a request, as in the worker, it does nothing.
    """
    permit = _CURRENT.get()
    if permit is not None:
        await permit.acquire(stored_bytes)
