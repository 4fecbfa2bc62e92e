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

from service.api.middleware.body_timeout import timed
from service.api.middleware.error_response import tell
from service.api.middleware.load_metrics import IN_WORK, REFUSED, SPOOL, SPOOL_LIMIT, WEBHOOKS
from service.api.middleware.load_monitor import LoadMonitor
from service.api.middleware.request_context import ANSWER_MADE
from service.api.middleware.response_memory import ResponseMemory, ResponsePermit, begin_response
from service.api.middleware.unauthenticated_limits import UnauthenticatedLimits
from service.api.request_classes import kind_of
from service.concurrency.memory_budget import UPLOADS_BYTES, MemoryBudget
from service.domain.errors import BridgeError, CallerMistake, Overloaded
from service.domain.ids import TenantId
from service.domain.sessions.change_polling import MAX_PLACES, share_of
from service.http_server import MAX_CONNECTIONS, assign_owner, cut_unread
from service.settings import Settings

log = structlog.get_logger()

# One webhook is so much less work than one call.
_WEBHOOKS = 4
_MIN_PLACES = 16
# A body for which there is no memory waits for so long, without being read: most bodies come and go within
# that moment, and the disk costs several times as much. Behind clients that are slow nobody waits.
_MEMORY_PATIENCE_SECONDS = 1.0
_VAIN_SECONDS = 10.0
# What a form may be larger than its file.
_FORM_BYTES = 65_536
_TIMED_ELSEWHERE = frozenset({"uploads", "webhooks"})
# Whose connections those are that bring signed webhooks.
_VENDOR = "vendor"
_KEY = "ekabridge.place"
HandlerOf = Callable[[Any], BaseRouteHandler | None]

# Whoever comes again comes scattered.
_RETRY_AFTER_SECONDS = (1, 4)


class RequestClass:
    """The places of one kind of request."""

    def __init__(self, kind: str, most: int, *, max_of_one: int, strain: LoadMonitor | None = None) -> None:
        """`strain`: of a process that falls behind this room gives fewer places."""
        self.kind = kind
        self.most = most
        self.max_of_one = max_of_one
        self.taken = 0
        self.of_tenants: Counter[TenantId] = Counter()
        self._strain = strain
        self._gauge = IN_WORK.labels(kind)

    def check(self) -> None:
        """Refuse when there is no place at this moment; some places there always are. Raises Overloaded."""
        most = self.most
        if self._strain is not None:
            most = max(min(most, _MIN_PLACES), int(most * self._strain.share))
        if self.taken >= most:
            raise self.refuse("places")

    def take(self, tenant: TenantId | None) -> None:
        """Take a place, as this tenant's if it is one's. Raises Overloaded."""
        self.check()
        if tenant is not None:
            if self.of_tenants[tenant] >= self.max_of_one:
                raise self.refuse("share")
            self.of_tenants[tenant] += 1
        self.taken += 1
        self._gauge.inc()

    def give_back(self, tenant: TenantId | None) -> None:
        """Give a place back."""
        self.taken -= 1
        self._gauge.dec()
        if tenant is not None:
            self.of_tenants[tenant] -= 1
            if not self.of_tenants[tenant]:
                del self.of_tenants[tenant]

    def refuse(self, reason: str) -> Overloaded:
        """Count a refusal and return the error to raise."""
        REFUSED.labels(self.kind, reason).inc()
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
        room: RequestClass,
        disk: "DiskBudget",
        memory: MemoryBudget,
        announced_bytes: int = 0,
        answer: ResponsePermit | None = None,
    ) -> None:
        self._room = room
        self._disk = disk
        self._memory = memory
        self._announced_bytes = announced_bytes
        self._answer = answer
        self._is_taken = False
        self._memory_bytes = 0
        self._tenant: TenantId | None = None
        self._reserved_bytes = 0
        self._kept_bytes = 0

    def take(self, tenant: TenantId | None) -> None:
        """Take the place now that the sender is known: a tenant, or the vendor itself. Raises Overloaded."""
        if self._is_taken:
            return
        self._room.take(tenant)
        self._is_taken, self._tenant = True, tenant
        if self._answer is not None:
            self._answer.tenant = tenant
        self.reserve(self._announced_bytes)

    def refuse(self, reason: str) -> Overloaded:
        """Count a refusal and return the error to raise."""
        return self._room.refuse(reason)

    def reserve(self, size: int) -> None:
        """Take so many bytes of the disk, until the place is left. Raises Overloaded."""
        self._disk.check(self._room, size)
        self._disk.take(size)
        self._reserved_bytes += size

    def keep(self, size: int) -> None:
        """Put so many bytes on the disk, even beyond those that were announced. Raises Overloaded."""
        self._kept_bytes += size
        if self._kept_bytes > self._reserved_bytes:
            self.reserve(self._kept_bytes - self._reserved_bytes)

    def lose(self, error: OSError) -> Overloaded:
        """Say in the log why the disk keeps nothing, and return the error to raise."""
        code = errno.errorcode.get(error.errno or 0, "unknown")
        log.error("spool_failed", error=type(error).__name__, errno=code)
        return self._room.refuse("folder")

    async def take_memory(self, size: int) -> bool:
        """Ask for so many bytes of memory, until the place is left; the answer may take a moment."""
        is_taken = await self._memory.take(size)
        if is_taken:
            self._memory_bytes += size
        return is_taken

    def leave(self) -> None:
        """Give everything back."""
        self._disk.take(-self._reserved_bytes)
        self._memory.give_back(self._memory_bytes)
        if self._answer is not None:
            self._answer.leave()
        if self._is_taken:
            self._room.give_back(self._tenant)


class DiskBudget:
    """What the bodies of a process may take of the disk, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken_bytes = 0
        SPOOL_LIMIT.set(max_bytes)

    def check(self, room: RequestClass, size: int) -> None:
        """Refuse when there are not so many bytes. Raises Overloaded."""
        if self.taken_bytes + size > self.max_bytes:
            raise room.refuse("spool")

    def take(self, size: int) -> None:
        """Count so many bytes as taken, or with a number below zero as given back."""
        self.taken_bytes += size
        SPOOL.inc(size)


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
        strain: LoadMonitor,
        strangers: UnauthenticatedLimits,
    ) -> None:
        """`handler_of` finds the handler of the route that a request will take."""
        self._app = app
        self._handler_of = handler_of
        self._strangers = strangers
        self.strain = strain
        self._disk = DiskBudget(settings.max_spool_bytes)
        self._answers = ResponseMemory()
        self._memory = MemoryBudget(
            UPLOADS_BYTES, patience_seconds=_MEMORY_PATIENCE_SECONDS, vain_seconds=_VAIN_SECONDS
        )
        self._max_bytes = settings.chunk_max_bytes + _FORM_BYTES
        self._max_connections = settings.max_connections
        most, uploads = settings.max_requests, settings.max_uploads
        # A process that falls behind takes fewer reads and calls. An upload that is refused is sent whole
        # again; a webhook is little work and ends much; and what waits does nothing.
        # What waits has its limits where it waits (ChangePoller): here it only must not be without any.
        waits = 2 * MAX_PLACES + most
        self._rooms = {
            "reads": RequestClass("reads", most, max_of_one=share_of(most), strain=strain),
            "calls": RequestClass("calls", most, max_of_one=share_of(most), strain=strain),
            "uploads": RequestClass("uploads", uploads, max_of_one=share_of(uploads)),
            "webhooks": RequestClass("webhooks", _WEBHOOKS * most, max_of_one=_WEBHOOKS * most),
            "waits": RequestClass("waits", waits, max_of_one=share_of(waits)),
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            scope["state"][MAX_CONNECTIONS] = self._max_connections
            async with self.strain.watched():
                await self._app(scope, receive, send)
            return
        kind = kind_of(self._handler_of(scope), scope) if scope["type"] == ScopeType.HTTP else None
        if kind is None:
            await self._app(scope, receive, send)
            return
        room = self._rooms[kind]
        announced = self._announced(scope) if kind == "uploads" else 0
        try:
            # Told before it is known who asks: to look a key up costs more than to refuse.
            room.check()
            if announced:
                self._disk.check(room, announced)
            ahead = self._strangers.room_ahead(scope)
            if ahead is not None:
                receive = await ahead.read_ahead(scope, receive)
        except BridgeError as refused:
            if kind == "webhooks" and isinstance(refused, CallerMistake):
                WEBHOOKS.labels("refused").inc()
            await tell(scope, refused, send)
            return
        answer = ResponsePermit(self._answers, partial(cut_unread, scope))
        begin_response(answer)
        scope[ANSWER_MADE] = answer.sending
        place = scope[_KEY] = Permit(room, self._disk, self._memory, announced, answer)
        try:
            # Audio and webhooks have time limits of their own.
            await self._app(scope, receive if kind in _TIMED_ELSEWHERE else self._timed(receive), send)
        finally:
            place.leave()

    def _timed(self, receive: Receive) -> Receive:
        return timed(receive, idle_seconds=self.body_idle_seconds, total_seconds=self.body_total_seconds)

    def _announced(self, scope: Any) -> int:
        """Return what a body says it will take of the disk; one that is too large is refused elsewhere."""
        for name, value in scope["headers"]:
            if name == b"content-length":
                size = int(value)
                return size if size <= self._max_bytes else 0
        return 0


def acquire_permit(scope: Any, tenant_id: TenantId | None) -> None:
    """Take a request's place once it is known who sends it; None is the vendor. Raises Overloaded."""
    place = scope.get(_KEY)
    if place is None:  # a WebSocket has none, nor what is always let in
        return
    if tenant_id is None:
        assign_owner(scope, _VENDOR, is_limited=False)
    elif not assign_owner(scope, tenant_id):
        raise place.refuse("connections")
    place.take(tenant_id)


def permit_of(scope: Any) -> Permit:
    """Return the place of a request that brings audio."""
    place = scope[_KEY]
    assert isinstance(place, Permit)  # noqa: S101 - the doors of audio are never let in without
    return place
