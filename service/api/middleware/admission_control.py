"""How many requests are in work at once, and whose: what is too much is told so before anything is read.

Kinds of requests have places of their own, so that none can starve another: a hanging EkaScribe fills the
places of calls and not those of reads, a flood of uploads delays no end, and EkaScribe's webhooks always find
room. Within a kind no tenant takes more than three quarters. A process that falls behind gives
fewer for reads and calls.

A request takes its place when it is known who sends it, and no sooner: strangers would take all of them.
Until then it only hears whether there is one. A body that has to be read to know the sender is awaited in a
room of its own (service/api/middleware/unauthenticated_limits.py).
"""

import errno
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import randint
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Send

from service.api.middleware.body_timeout import with_body_timeout
from service.api.middleware.error_response import send_problem
from service.api.middleware.load_monitor import (
    BUFFER_BYTES,
    BUFFER_LIMIT_BYTES,
    IN_WORK,
    REFUSED,
    WEBHOOKS,
    LoadMonitor,
)
from service.api.middleware.request_context import RESPONSE_READY
from service.api.middleware.response_memory import ResponseMemory, ResponsePermit, begin_response
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.request_classes import RequestClassName, class_of
from service.concurrency.memory_budget import UPLOADS_BYTES, MemoryBudget
from service.domain.errors import BridgeError, CallerMistake, Overloaded
from service.domain.ids import TenantId
from service.domain.sessions.change_polling import MAX_PLACES, share_of
from service.http_server.connection_owners import belongs_to, cut_unread
from service.http_server.http_limits import MAX_CONNECTIONS
from service.settings import Settings

log = structlog.get_logger()

# One webhook is so much less work than one call.
_WEBHOOKS_FACTOR = 4
_MIN_REQUESTS = 16
# A body for which there is no memory waits for so long, without being read: most bodies come and go within
# that moment, and the disk costs several times as much. Behind clients that are slow nobody waits.
_MAX_MEMORY_WAIT_SECONDS = 1.0
_NO_WAIT_SECONDS = 10.0
# What a form may be larger than its file.
_FORM_BYTES = 65_536
_TIMED_ELSEWHERE = frozenset({"uploads", "webhooks"})
# Whose connections those are that bring signed webhooks.
_VENDOR_OWNER = "vendor"
_PERMIT = "ekabridge.permit"
HandlerOf = Callable[[Any], BaseRouteHandler | None]

# Whoever comes again comes scattered.
_RETRY_AFTER_SECONDS = (1, 4)


class RequestClass:
    """The places of one kind of request."""

    def __init__(
        self,
        name: RequestClassName,
        max_requests: int,
        *,
        max_per_tenant: int,
        load_monitor: LoadMonitor | None = None,
    ) -> None:
        """`strain`: of a process that falls behind this room gives fewer places."""
        self.name = name
        self.max_requests = max_requests
        self.max_per_tenant = max_per_tenant
        self.in_use = 0
        self.in_use_by_tenant: Counter[TenantId] = Counter()
        self._load_monitor = load_monitor
        self._gauge = IN_WORK.labels(name)

    def check(self) -> None:
        """Refuse when there is no place at this moment; some places there always are. Raises Overloaded."""
        max_requests = self.max_requests
        if self._load_monitor is not None:
            reduced = int(max_requests * self._load_monitor.capacity_factor)
            max_requests = max(min(max_requests, _MIN_REQUESTS), reduced)
        if self.in_use >= max_requests:
            raise self.refusal("places")

    def acquire(self, tenant: TenantId | None) -> None:
        """Take a place, as this tenant's if it is one's. Raises Overloaded."""
        self.check()
        if tenant is not None:
            if self.in_use_by_tenant[tenant] >= self.max_per_tenant:
                raise self.refusal("share")
            self.in_use_by_tenant[tenant] += 1
        self.in_use += 1
        self._gauge.inc()

    def release(self, tenant: TenantId | None) -> None:
        """Give a place back."""
        self.in_use -= 1
        self._gauge.dec()
        if tenant is not None:
            self.in_use_by_tenant[tenant] -= 1
            if not self.in_use_by_tenant[tenant]:
                del self.in_use_by_tenant[tenant]

    def refusal(self, reason: str) -> Overloaded:
        """Count a refusal and return the error to raise."""
        REFUSED.labels(self.name, reason).inc()
        return Overloaded(_DETAILS[reason], retry_after_seconds=randint(*_RETRY_AFTER_SECONDS))  # noqa: S311 - scatters, hides nothing


_DETAILS = {
    "places": "more is in work here than can be answered in time",
    "share": "more of your calls are in work here than one customer's share",
    "connections": "more of your connections are open here than one customer's share",
    "spool": "more audio is on its way here than can be kept",
    "folder": "the folder for audio on its way is full or cannot be used",
}


class Permit:
    """One request's place, once it has one, and what it keeps on disk and in memory meanwhile."""

    def __init__(
        self,
        request_class: RequestClass,
        disk: "DiskBudget",
        memory: MemoryBudget,
        announced_bytes: int = 0,
        response: ResponsePermit | None = None,
    ) -> None:
        self._request_class = request_class
        self._disk = disk
        self._memory = memory
        self._announced_bytes = announced_bytes
        self._response = response
        self._is_acquired = False
        self._memory_bytes = 0
        self._tenant: TenantId | None = None
        self._reserved_bytes = 0
        self._written_bytes = 0

    def acquire(self, tenant: TenantId | None) -> None:
        """Take the place now that the sender is known: a tenant, or the vendor itself. Raises Overloaded."""
        if self._is_acquired:
            return
        self._request_class.acquire(tenant)
        self._is_acquired, self._tenant = True, tenant
        if self._response is not None:
            self._response.tenant = tenant
        self.reserve_disk(self._announced_bytes)

    def refusal(self, reason: str) -> Overloaded:
        """Count a refusal and return the error to raise."""
        return self._request_class.refusal(reason)

    def reserve_disk(self, size: int) -> None:
        """Take so many bytes of the disk, until the place is left. Raises Overloaded."""
        self._disk.check(self._request_class, size)
        self._disk.acquire(size)
        self._reserved_bytes += size

    def count_written(self, size: int) -> None:
        """Put so many bytes on the disk, even beyond those that were announced. Raises Overloaded."""
        self._written_bytes += size
        if self._written_bytes > self._reserved_bytes:
            self.reserve_disk(self._written_bytes - self._reserved_bytes)

    def disk_failure(self, error: OSError) -> Overloaded:
        """Say in the log why the disk keeps nothing, and return the error to raise."""
        code = errno.errorcode.get(error.errno or 0, "unknown")
        log.error("spool_failed", error=type(error).__name__, errno=code)
        return self._request_class.refusal("folder")

    async def reserve_memory(self, size: int) -> bool:
        """Ask for so many bytes of memory, until the place is left; the answer may take a moment."""
        is_reserved = await self._memory.take(size)
        if is_reserved:
            self._memory_bytes += size
        return is_reserved

    def release(self) -> None:
        """Give everything back."""
        self._disk.release(self._reserved_bytes)
        self._memory.give_back(self._memory_bytes)
        if self._response is not None:
            self._response.release()
        if self._is_acquired:
            self._request_class.release(self._tenant)


class DiskBudget:
    """What the bodies of a process may take of the disk, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        BUFFER_LIMIT_BYTES.set(max_bytes)

    def check(self, request_class: RequestClass, size: int) -> None:
        """Refuse when there are not so many bytes. Raises Overloaded."""
        if self.used_bytes + size > self.max_bytes:
            raise request_class.refusal("spool")

    def acquire(self, size: int) -> None:
        """Count so many bytes as used."""
        self.used_bytes += size
        BUFFER_BYTES.inc(size)

    def release(self, size: int) -> None:
        """Count so many bytes as free again."""
        self.used_bytes -= size
        BUFFER_BYTES.dec(size)


class AdmissionControl:
    """Wraps the application: gives each request a place, or answers at once that there is none."""

    # For bodies that are no audio.
    body_idle_seconds = 20.0
    body_total_seconds = 60.0

    def __init__(
        self,
        app: ASGIApp,
        handler_of: HandlerOf,
        settings: Settings,
        load_monitor: LoadMonitor,
        unauthenticated_limits: UnauthenticatedLimits,
    ) -> None:
        """`handler_of` finds the handler of the route that a request will take."""
        self._app = app
        self._handler_of = handler_of
        self._unauthenticated_limits = unauthenticated_limits
        self.load_monitor = load_monitor
        self._disk = DiskBudget(settings.max_spool_bytes)
        self._response_memory = ResponseMemory()
        self._memory = MemoryBudget(
            UPLOADS_BYTES, patience_seconds=_MAX_MEMORY_WAIT_SECONDS, vain_seconds=_NO_WAIT_SECONDS
        )
        self._max_bytes = settings.chunk_max_bytes + _FORM_BYTES
        self._max_connections = settings.max_connections
        max_requests, uploads = settings.max_requests, settings.max_uploads
        # A process that falls behind takes fewer reads and calls. An upload that is refused is sent whole
        # again; a webhook is little work and ends much; and what waits does nothing.
        # What waits has its limits where it waits (ChangePoller): here it only must not be without any.
        waits = 2 * MAX_PLACES + max_requests
        self._classes: dict[RequestClassName, RequestClass] = {
            "reads": RequestClass(
                "reads", max_requests, max_per_tenant=share_of(max_requests), load_monitor=load_monitor
            ),
            "calls": RequestClass(
                "calls", max_requests, max_per_tenant=share_of(max_requests), load_monitor=load_monitor
            ),
            "uploads": RequestClass("uploads", uploads, max_per_tenant=share_of(uploads)),
            "webhooks": RequestClass(
                "webhooks", _WEBHOOKS_FACTOR * max_requests, max_per_tenant=_WEBHOOKS_FACTOR * max_requests
            ),
            "waits": RequestClass("waits", waits, max_per_tenant=share_of(waits)),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            scope["state"][MAX_CONNECTIONS] = self._max_connections
            async with self.load_monitor.running():
                await self._app(scope, receive, send)
            return
        name = class_of(self._handler_of(scope), scope) if scope["type"] == ScopeType.HTTP else None
        if name is None:
            await self._app(scope, receive, send)
            return
        request_class = self._classes[name]
        announced_bytes = self._announced_bytes(scope) if name == "uploads" else 0
        try:
            # Told before it is known who asks: to look a key up costs more than to refuse.
            request_class.check()
            if announced_bytes:
                self._disk.check(request_class, announced_bytes)
            pool = self._unauthenticated_limits.pool_before_routing(scope)
            if pool is not None:
                receive = await pool.read_before_routing(scope, receive)
        except BridgeError as error:
            if name == "webhooks" and isinstance(error, CallerMistake):
                WEBHOOKS.labels("refused").inc()
            await send_problem(scope, error, send)
            return
        response = ResponsePermit(self._response_memory, partial(cut_unread, scope))
        begin_response(response)
        scope[RESPONSE_READY] = response.on_ready
        permit = scope[_PERMIT] = Permit(request_class, self._disk, self._memory, announced_bytes, response)
        try:
            # Audio and webhooks have time limits of their own.
            await self._app(scope, receive if name in _TIMED_ELSEWHERE else self._with_timeout(receive), send)
        finally:
            permit.release()

    def _with_timeout(self, receive: Receive) -> Receive:
        return with_body_timeout(
            receive, idle_seconds=self.body_idle_seconds, total_seconds=self.body_total_seconds
        )

    def _announced_bytes(self, scope: Any) -> int:
        """Return what a body says it will take of the disk; one that is too large is refused elsewhere."""
        for name, value in scope["headers"]:
            if name == b"content-length":
                size = int(value)
                return size if size <= self._max_bytes else 0
        return 0


def acquire_permit(scope: Any, tenant_id: TenantId | None) -> None:
    """Take a request's place once it is known who sends it; None is the vendor. Raises Overloaded."""
    permit = scope.get(_PERMIT)
    if permit is None:  # a WebSocket has none, nor what is always let in
        return
    if tenant_id is None:
        belongs_to(scope, _VENDOR_OWNER, is_limited=False)
    elif not belongs_to(scope, tenant_id):
        raise permit.refusal("connections")
    permit.acquire(tenant_id)


def permit_of(scope: Any) -> Permit:
    """Return the place of a request that brings audio."""
    permit = scope[_PERMIT]
    assert isinstance(permit, Permit)  # noqa: S101 - the doors of audio are never let in without
    return permit
