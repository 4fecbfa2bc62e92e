"""Limits for requests without an authenticated sender: logins, forms and webhooks, and handshakes of streams.

Logins, forms and webhooks name their sender only in the body. Until the body has arrived, such a request
holds no permit of admission_control.py, because anybody could use up all permits with bodies that never end.
It waits in a pool instead, which bounds the number of requests, the bytes of each, and the time. A full pool
ends the wait of its oldest request: an honest body arrives within moments, so the oldest request is most
likely an attack.
"""

import asyncio
import ipaddress
from types import TracebackType
from typing import Any, Self

from litestar import Request
from litestar.types import Receive
from msgspec import Struct

from service.api.middleware.load_monitor import GIVEN_UP, IN_WORK
from service.api.middleware.request_class import RequestClass
from service.domain.errors import BodyTimeout, BodyTooLarge, ClientDisconnected

# One timer for each pool checks all its requests; a timer for each request would cost more.
_CHECK_SECONDS = 0.05
_MAX_BYTES = 65_536
_MAX_ADDRESS_CHARACTERS = 64
# After a restart of a process, the clients of all its streams reconnect at once, so the limit is high.
MAX_HANDSHAKES = 256
_TOO_MANY_HANDSHAKES = "more streams are being opened here than can be answered in time"
_LOGIN_PATH = "/connect-auth/v1/account/login"
_READ_BEFORE_ROUTING = (_LOGIN_PATH, "/webhooks/eka")
_TENANT_WEBHOOKS_PATH = "/webhooks/eka/{tenant}"
# The key of a scope that holds the body if it was read before routing.
_BODY = "ekabridge.body"
# Internet providers give each customer an IPv6 network of this size, so its addresses count as one.
_IPV6_NETWORK_BITS = 64


class UnauthenticatedLimit(Struct, frozen=True, kw_only=True):
    """The bounds of one pool.

    After `grace_seconds` a body must arrive at `min_bytes_per_second` or more, on average.
    """

    max_requests: int
    max_seconds: float
    max_per_address: int
    max_bytes: int = _MAX_BYTES
    # The limit for all unfinished bodies of the pool together.
    max_total_bytes: int = 4 * 1024 * 1024
    # TCP repeats a lost packet within three seconds.
    grace_seconds: float = 3.0
    # With the grace, a webhook of 64 KiB may take five seconds.
    min_bytes_per_second: float = _MAX_BYTES / 2


class UnauthenticatedWait:
    """The wait of one request for its body, as a context manager.

    Raises BodyTimeout if the pool ends the wait, which cancels the task that reads the body.
    """

    __slots__ = ("_cancelling", "_is_given_up", "_pool", "_task", "address", "since", "size")

    def __init__(self, pool: "UnauthenticatedPool", address: str | None, now: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - requests are served in tasks
        self._pool = pool
        self._task = task
        self._cancelling = task.cancelling()
        self._is_given_up = False
        self.address = address
        self.since = now
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        # As in asyncio.timeout: a cancellation from anywhere else must go on as a cancellation.
        if (
            self._is_given_up
            and self._task.uncancel() <= self._cancelling
            and error_type is asyncio.CancelledError
        ):
            raise BodyTimeout("the body came too slowly") from None

    def count(self, size: int) -> None:
        """Count received bytes. Raises BodyTooLarge, or BodyTimeout if all bodies together are too large."""
        self.size += size
        if self.size > self._pool.limit.max_bytes:
            raise BodyTooLarge("the body is too large for this address")
        self._pool.count_bytes(self, size)

    def release(self) -> None:
        """Leave the pool: the sender is authenticated, or the request is over."""
        self._pool.release(self)

    def give_up(self) -> None:
        """End the wait by cancelling the task that reads the body."""
        self._is_given_up = True
        self._task.cancel()


class UnauthenticatedPool:
    """The requests of one kind that wait for their bodies, oldest first."""

    def __init__(self, limit: UnauthenticatedLimit, *, address_header: str | None) -> None:
        """`address_header` is the header in which a trusted proxy names the client's address, or None."""
        self.limit = limit
        self._address_header = _encoded(address_header)
        self._waits: dict[UnauthenticatedWait, None] = {}
        self._waits_by_address: dict[str, dict[UnauthenticatedWait, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._total_bytes = 0
        self._reported = 0

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waits)

    async def read(self, request: Request[Any, Any, Any]) -> bytes:
        """Return the whole body, read before routing or now. Raises as `read_before_routing` does."""
        body: bytes | None = request.scope.get(_BODY)  # type: ignore[assignment]
        return await self.receive(request.scope, request.receive) if body is None else body

    async def read_before_routing(self, scope: Any, receive: Receive) -> Receive:
        """Read the whole body before Litestar sees the request, and return a `receive` that repeats it.

        A slow sender then costs little more than its connection. Raises BodyTooLarge, BodyTimeout or
        ClientDisconnected.
        """
        body = scope[_BODY] = await self.receive(scope, receive)
        whole: Any = {"type": "http.request", "body": body, "more_body": False}

        async def receive_whole() -> Any:
            nonlocal whole
            message, whole = whole, None
            return message or await receive()

        return receive_whole

    async def receive(self, scope: Any, receive: Receive) -> bytes:
        """Receive the whole body."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.limit.max_bytes:
                raise BodyTooLarge("the body is too large for this address")
        with self.wait(scope) as wait:
            pieces = []
            more = True
            while more:
                message: Any = await receive()
                if message["type"] != "http.request":
                    raise ClientDisconnected("the client went away in the middle of the body")
                piece = message.get("body", b"")
                wait.count(len(piece))
                pieces.append(piece)
                more = message.get("more_body", False)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def wait(self, scope: Any) -> UnauthenticatedWait:
        """Begin the wait of a request; if pool or address are at their limit, end their oldest wait."""
        loop = asyncio.get_running_loop()
        address = _address_of(scope, self._address_header)
        if len(self._waits) >= self.limit.max_requests:
            self._give_up(next(iter(self._waits)), "places")
        wait = UnauthenticatedWait(self, address, loop.time())
        self._waits[wait] = None
        if address is not None:
            same_address = self._waits_by_address.setdefault(address, {})
            if len(same_address) >= self.limit.max_per_address:
                self._give_up(next(iter(same_address)), "share")
            # `_give_up` may have removed the address's last wait, and the dictionary with it.
            self._waits_by_address.setdefault(address, {})[wait] = None
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_SECONDS, self._check)
        return wait

    def count_bytes(self, wait: UnauthenticatedWait, size: int) -> None:
        """Count received bytes; beyond the limit of all bodies together, end the oldest wait."""
        if wait not in self._waits:
            return
        self._total_bytes += size
        if self._total_bytes <= self.limit.max_total_bytes:
            return
        oldest = next(iter(self._waits))
        if oldest is wait:
            raise BodyTimeout("too many bodies are awaited here")
        self._give_up(oldest, "places")

    def release(self, wait: UnauthenticatedWait) -> None:
        """Remove a wait; a wait that was removed before is ignored."""
        if wait not in self._waits:
            return
        del self._waits[wait]
        self._total_bytes -= wait.size
        if wait.address is not None:
            same_address = self._waits_by_address.get(wait.address, {})
            same_address.pop(wait, None)
            if not same_address:
                self._waits_by_address.pop(wait.address, None)

    def _give_up(self, wait: UnauthenticatedWait, reason: str) -> None:
        self.release(wait)
        GIVEN_UP.labels(reason).inc()
        wait.give_up()

    def _check(self) -> None:
        """End the waits that last too long or whose bodies arrive too slowly."""
        loop, limit = asyncio.get_running_loop(), self.limit
        now = loop.time()
        for wait in list(self._waits):
            seconds = now - wait.since
            if seconds > limit.max_seconds:
                self._give_up(wait, "time")
            elif seconds > limit.grace_seconds + wait.size / limit.min_bytes_per_second:
                self._give_up(wait, "rate")
        IN_WORK.labels("strangers").inc(len(self._waits) - self._reported)
        self._reported = len(self._waits)
        self._timer = loop.call_later(_CHECK_SECONDS, self._check) if self._waits else None


class HandshakePermit:
    """The permit of one handshake while its capability is looked up, as a context manager."""

    __slots__ = ("_address", "_is_released", "_requests")

    def __init__(self, requests: RequestClass, address: str | None) -> None:
        self._requests = requests
        self._address = address
        self._is_released = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the permit: the capability is verified, or the handshake is over. May be called twice."""
        if not self._is_released:
            self._is_released = True
            self._requests.release(self._address)


class HandshakeLimit:
    """Bounds the handshakes of streams whose capability is not verified yet, in all and for each address.

    Each of them costs a query, and anybody can open one. Beyond the bound the newest is refused, not the
    oldest: cancelling the oldest one's query would cost the database more than finishing it.
    """

    def __init__(self, *, max_handshakes: int, max_per_address: int, address_header: str | None) -> None:
        self._address_header = _encoded(address_header)
        self._requests = RequestClass(
            "handshakes",
            max_handshakes,
            max_per_holder=max_per_address,
            details=dict.fromkeys(("places", "share"), _TOO_MANY_HANDSHAKES),
        )

    def acquire(self, scope: Any) -> HandshakePermit:
        """Return a permit for a handshake. Raises Overloaded."""
        address = _address_of(scope, self._address_header)
        self._requests.acquire(address)
        return HandshakePermit(self._requests, address)


class UnauthenticatedLimits:
    """The pools of logins, forms and webhooks, and the limit of handshakes."""

    def __init__(self, *, address_header: str | None) -> None:
        def pool(max_requests: int, max_seconds: float, max_per_address: int) -> UnauthenticatedPool:
            limit = UnauthenticatedLimit(
                max_requests=max_requests, max_seconds=max_seconds, max_per_address=max_per_address
            )
            return UnauthenticatedPool(limit, address_header=address_header)

        # Smaller pools would make attacks cheaper: fewer connections would be enough to push honest requests
        # out.
        self.logins = pool(512, 3.0, 8)
        self.forms = pool(512, 5.0, 8)
        # EkaScribe sends many webhooks at once from few addresses.
        self.webhooks = pool(512, 5.0, 64)
        self.handshakes = HandshakeLimit(
            max_handshakes=MAX_HANDSHAKES, max_per_address=32, address_header=address_header
        )

    def pool_before_routing(self, scope: Any) -> UnauthenticatedPool | None:
        """Return the pool in which a request waits before Litestar routes it; None if it has none.

        Only the usual spelling of a path is recognised here; with another spelling the handler uses the same
        pool.
        """
        path: str = scope["path"]
        if scope["method"] != "POST" or not path.startswith(_READ_BEFORE_ROUTING):
            return None
        scope["path_template"] = path if path in _READ_BEFORE_ROUTING else _TENANT_WEBHOOKS_PATH
        return self.logins if path == _LOGIN_PATH else self.webhooks


def _encoded(address_header: str | None) -> bytes | None:
    return address_header.lower().encode() if address_header else None


def _address_of(scope: Any, header: bytes | None) -> str | None:
    """Return the client's address: the last one in the header, as the client may forge the others.

    None without a header that a trusted proxy sets.
    """
    if header is None:
        return None
    for name, value in reversed(scope["headers"]):
        if name == header:
            address: str = value.decode("latin-1").rpartition(",")[2].strip()
            return _network_of(address)
    return None


def _network_of(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text[:_MAX_ADDRESS_CHARACTERS]
    if address.version == 4:  # noqa: PLR2004
        return text
    return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
