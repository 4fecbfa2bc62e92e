"""Limits how many requests a process works on at once; excess requests get 503 before their body is read.

Each class of requests has limits of its own, so that no class can starve another: calls that wait for a
hanging EkaScribe leave reads untouched, a flood of uploads delays no call that ends a session, and webhooks
of EkaScribe compete with no other request. Within a class one tenant may use three quarters. A process that
falls behind admits fewer reads and calls (load_monitor.py).

A request acquires its permit only after authentication; otherwise anybody without a key could use up all
permits. Before that the request only fails early if its class is full. Requests that name their sender in the
body, such as logins, wait under the limits of unauthenticated_limits.py until the body has arrived.
"""

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Send

from service.api.middleware.body_timeout import with_body_timeout
from service.api.middleware.disk_budget import (
    FORM_BYTES,
    RECORDINGS_SHARE,
    DiskBudget,
    max_recording_bytes,
)
from service.api.middleware.error_response import send_problem
from service.api.middleware.load_monitor import WEBHOOKS, LoadMonitor
from service.api.middleware.request_class import RequestClass
from service.api.middleware.request_context import RESPONSE_READY
from service.api.middleware.response_memory import ResponseMemory, ResponsePermit, begin_response
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.request_classes import TAKES_RECORDINGS, class_of
from service.concurrency.memory_budget import UPLOADS_BYTES, MemoryBudget
from service.domain.errors import BridgeError, CallerMistake, Overloaded
from service.domain.ids import TenantId
from service.domain.sessions.change_polling import MAX_WAITERS, tenant_quota
from service.http_server import MAX_CONNECTIONS, assign_owner, cut_unread
from service.settings import Settings

log = structlog.get_logger()

# A webhook takes about a quarter of the work of a call, so that many more may be in work.
_WEBHOOKS_FACTOR = 4
# A body for which no memory is free waits so long, unread: usually another body is finished within that time,
# and a body on disk costs several times as much CPU. After a wait without success, bodies go to the disk at
# once for `_NO_WAIT_SECONDS`, because the clients that hold the memory are slow.
_MAX_MEMORY_WAIT_SECONDS = 1.0
_NO_WAIT_SECONDS = 10.0
_TIMED_ELSEWHERE = frozenset({"uploads", "webhooks"})
# The owner of the connections that bring signed webhooks.
_VENDOR_OWNER = "vendor"
_PERMIT = "ekabridge.permit"
HandlerOf = Callable[[Any], BaseRouteHandler | None]


class Permit:
    """The resources of one request: its permit of the class, and its bytes on disk and in memory.

    The middleware makes this object for each request; authentication calls `acquire`.
    """

    def __init__(
        self,
        request_class: RequestClass,
        disk: DiskBudget,
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
        """Acquire the permit for an authenticated tenant; None is EkaScribe. Raises Overloaded."""
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
        """Reserve bytes of the disk until `release`. Raises Overloaded."""
        self._disk.check(self._request_class, size)
        self._disk.acquire(size)
        self._reserved_bytes += size

    def count_written(self, size: int) -> None:
        """Count bytes written to the disk, and reserve those beyond Content-Length. Raises Overloaded."""
        self._written_bytes += size
        if self._written_bytes > self._reserved_bytes:
            self.reserve_disk(self._written_bytes - self._reserved_bytes)

    def disk_failure(self, error: OSError) -> Overloaded:
        """Log why the disk failed, count a refusal and return the error to raise."""
        code = errno.errorcode.get(error.errno or 0, "unknown")
        log.error("spool_failed", error=type(error).__name__, errno=code)
        return self._request_class.refusal("folder")

    async def reserve_memory(self, size: int) -> bool:
        """Reserve bytes of memory until `release`, waiting up to a second; return False if none are free."""
        is_reserved = await self._memory.acquire(size)
        if is_reserved:
            self._memory_bytes += size
        return is_reserved

    def release(self) -> None:
        """Release everything that this request holds."""
        self._disk.release(self._reserved_bytes)
        self._memory.release(self._memory_bytes)
        if self._response is not None:
            self._response.release()
        if self._is_acquired:
            self._request_class.release(self._tenant)


class AdmissionControl:
    """ASGI middleware that gives each request a Permit, or answers 503 if its class is full."""

    # Time limits for bodies without audio; attributes, so that tests can lower them.
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
        """`handler_of` returns the route handler that Litestar will choose for a request."""
        self._app = app
        self._handler_of = handler_of
        self._unauthenticated_limits = unauthenticated_limits
        self.load_monitor = load_monitor
        self._disk = DiskBudget(settings.max_spool_bytes)
        self._response_memory = ResponseMemory()
        self._memory = MemoryBudget(
            UPLOADS_BYTES, patience_seconds=_MAX_MEMORY_WAIT_SECONDS, cooldown_seconds=_NO_WAIT_SECONDS
        )
        self._recordings_disk = self._disk.share(RECORDINGS_SHARE)
        self._max_chunk_bytes = settings.chunk_max_bytes + FORM_BYTES
        self._max_recording_bytes = max_recording_bytes(settings) + FORM_BYTES
        self._max_connections = settings.max_connections
        self._classes = _make_classes(settings, load_monitor)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            scope["state"][MAX_CONNECTIONS] = self._max_connections
            async with self.load_monitor.running():
                await self._app(scope, receive, send)
            return
        handler = self._handler_of(scope) if scope["type"] == ScopeType.HTTP else None
        name = class_of(handler, scope) if scope["type"] == ScopeType.HTTP else None
        if name is None:
            await self._app(scope, receive, send)
            return
        request_class = self._classes[name]
        takes_recordings = handler is not None and TAKES_RECORDINGS in handler.opt
        disk = self._recordings_disk if takes_recordings else self._disk
        max_bytes = self._max_recording_bytes if takes_recordings else self._max_chunk_bytes
        announced_bytes = _announced_bytes(scope, max_bytes) if name == "uploads" else 0
        try:
            # A full class refuses before authentication, because looking up a key costs more than a refusal.
            request_class.check()
            if announced_bytes:
                disk.check(request_class, announced_bytes)
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
        permit = scope[_PERMIT] = Permit(request_class, disk, self._memory, announced_bytes, response)
        try:
            # Uploads and webhooks have time limits of their own.
            await self._app(scope, receive if name in _TIMED_ELSEWHERE else self._with_timeout(receive), send)
        finally:
            permit.release()

    def _with_timeout(self, receive: Receive) -> Receive:
        return with_body_timeout(
            receive, idle_seconds=self.body_idle_seconds, total_seconds=self.body_total_seconds
        )


def _announced_bytes(scope: Any, max_bytes: int) -> int:
    """Return an upload's Content-Length; 0 if it is too large, which the handler answers with 413."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            size = int(value)
            return size if size <= max_bytes else 0
    return 0


def _make_classes(settings: Settings, load_monitor: LoadMonitor) -> dict[str, RequestClass]:
    """Make the classes with their limits.

    A process that falls behind admits fewer reads and calls, but not fewer of the others: a client would send
    a refused upload whole again, a webhook is little work and settles sessions, and waiting costs no CPU.
    """
    max_requests, max_uploads = settings.max_requests, settings.max_uploads
    max_webhooks = _WEBHOOKS_FACTOR * max_requests
    # ChangePoller limits the requests that wait; this limit is only a second bound.
    max_waits = 2 * MAX_WAITERS + max_requests
    classes = (
        RequestClass(
            "reads", max_requests, max_per_holder=tenant_quota(max_requests), load_monitor=load_monitor
        ),
        RequestClass(
            "calls", max_requests, max_per_holder=tenant_quota(max_requests), load_monitor=load_monitor
        ),
        RequestClass("uploads", max_uploads, max_per_holder=tenant_quota(max_uploads)),
        RequestClass("webhooks", max_webhooks, max_per_holder=max_webhooks),
        RequestClass("waits", max_waits, max_per_holder=tenant_quota(max_waits)),
    )
    return {request_class.name: request_class for request_class in classes}


def acquire_permit(scope: Any, tenant_id: TenantId | None) -> None:
    """Acquire a request's permit for its authenticated tenant; None for EkaScribe. Raises Overloaded."""
    permit = scope.get(_PERMIT)
    if permit is None:  # WebSockets and routes without limits have no permit
        return
    if tenant_id is None:
        assign_owner(scope, _VENDOR_OWNER, is_limited=False)
    elif not assign_owner(scope, tenant_id):
        raise permit.refusal("connections")
    permit.acquire(tenant_id)


def permit_of(scope: Any) -> Permit:
    """Return the permit of an upload."""
    permit = scope[_PERMIT]
    assert isinstance(permit, Permit)  # noqa: S101 - every upload route has the class `uploads`
    return permit
