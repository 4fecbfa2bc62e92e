"""Requests that tell only in their bodies who sends them: a login, a form, a webhook.

While such a body is awaited the request holds no permit of the calls, the uploads or the webhooks: a stranger
who sends a byte now and then would keep these from everybody. It waits in a room of its own, which bounds how
many wait, how many bytes each may send, and for how long. In a full room the request that has waited longest
is given up: a body that comes in one piece waits for no time at all, so the oldest is one that drips.
"""

import asyncio
import ipaddress
from collections import Counter
from random import randint
from types import TracebackType
from typing import Any, Self

from litestar import Request
from litestar.types import Receive
from msgspec import Struct

from service.api.middleware.load_monitor import GIVEN_UP, IN_WORK, REFUSED
from service.domain.errors import BodyTimeout, BodyTooLarge, ClientDisconnected, Overloaded

# One timer a room looks at all that wait in it: none costs anything with each request.
_CHECK_SECONDS = 0.05
_MAX_BYTES = 65_536
_MAX_ADDRESS_CHARACTERS = 64
# After a restart a process' streams come again at once; those that are refused come scattered.
MAX_HANDSHAKES = 256
_RETRY_AFTER_SECONDS = (1, 4)
_LOGIN_PATH = "/connect-auth/v1/account/login"
_READ_BEFORE_ROUTING = (_LOGIN_PATH, "/webhooks/eka")
_TENANT_WEBHOOKS_PATH = "/webhooks/eka/{tenant}"
# Of a request's scope: its body, if it was awaited ahead.
_BODY = "ekabridge.body"
# A network of this size is one customer of an Internet provider.
_IPV6_NETWORK_BITS = 64


class UnauthenticatedLimit(Struct, frozen=True, kw_only=True):
    """The bounds of one room.

    After `grace_seconds` a body must have come at `min_bytes_per_second` or more, on average.
    """

    max_requests: int
    max_seconds: float
    max_per_address: int
    max_bytes: int = _MAX_BYTES
    # All bodies that wait together.
    max_total_bytes: int = 4 * 1024 * 1024
    # A lost packet is sent again within three seconds.
    grace_seconds: float = 3.0
    # A webhook of 64 KiB so may take five seconds.
    min_bytes_per_second: float = _MAX_BYTES / 2


class UnauthenticatedWait:
    """One request that waits, as a context manager. Raises BodyTimeout when the room gives the request up."""

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
        # As asyncio.timeout does: who else cancels the task meanwhile is not taken for the room.
        if (
            self._is_given_up
            and self._task.uncancel() <= self._cancelling
            and error_type is asyncio.CancelledError
        ):
            raise BodyTimeout("the body came too slowly") from None

    def count(self, size: int) -> None:
        """Count bytes that came. Raises BodyTooLarge, or BodyTimeout when the room has too many of them."""
        self.size += size
        if self.size > self._pool.limit.max_bytes:
            raise BodyTooLarge("the body is too large for this address")
        self._pool.count_bytes(self, size)

    def release(self) -> None:
        """The sender is known, or the request is over."""
        self._pool.release(self)

    def give_up(self) -> None:
        """End the wait: the task that reads the body is woken with the error."""
        self._is_given_up = True
        self._task.cancel()


class UnauthenticatedPool:
    """Those of one kind who wait, in the order in which they came."""

    def __init__(self, limit: UnauthenticatedLimit, *, address_header: str | None) -> None:
        """`address_header`: by which a proxy tells a client's address; None when no proxy is trusted to."""
        self.limit = limit
        self._address_header = address_header.lower().encode() if address_header else None
        self._waits: dict[UnauthenticatedWait, None] = {}
        self._waits_by_address: dict[str, dict[UnauthenticatedWait, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._total_bytes = 0
        self._reported = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waits)

    async def read(self, request: Request[Any, Any, Any]) -> bytes:
        """Return a whole body, which may have been awaited before. Raises as `read_before_routing` does."""
        body: bytes | None = request.scope.get(_BODY)  # type: ignore[assignment]
        return await self.receive(request.scope, request.receive) if body is None else body

    async def read_before_routing(self, scope: Any, receive: Receive) -> Receive:
        """Await a body before the framework hears of its request; return what to receive from then on.

        Whoever drips so costs little more than the connection. Raises BodyTooLarge, BodyTimeout or
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
        """Receive a whole body."""
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
        """Let a request in; in a full room, or beyond its address's share, the oldest is given up."""
        loop = asyncio.get_running_loop()
        address = None if self._address_header is None else _address_of(scope, self._address_header)
        if len(self._waits) >= self.limit.max_requests:
            self._give_up(next(iter(self._waits)), "places")
        wait = UnauthenticatedWait(self, address, loop.time())
        self._waits[wait] = None
        if address is not None:
            same_address = self._waits_by_address.setdefault(address, {})
            if len(same_address) >= self.limit.max_per_address:
                self._give_up(next(iter(same_address)), "share")
            # Looked up again: the one that was given up may have been the address's last.
            self._waits_by_address.setdefault(address, {})[wait] = None
        if self._timer is None:
            self._timer = loop.call_later(_CHECK_SECONDS, self._check)
        return wait

    def count_bytes(self, wait: UnauthenticatedWait, size: int) -> None:
        """Count bytes that came; when there are too many in all, the oldest wait is given up."""
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
        """Count a request no more; one that has left already is none."""
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
        """Give up those whose time is over, and those that drip."""
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
    """One handshake whose capability is looked up, as a context manager."""

    __slots__ = ("_address", "_is_released", "_limit")

    def __init__(self, limit: "HandshakeLimit", address: str | None) -> None:
        self._limit = limit
        self._address = address
        self._is_released = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """The sender is known, or the handshake is over; calling it again does nothing."""
        if not self._is_released:
            self._is_released = True
            self._limit.release(self._address)


class HandshakeLimit:
    """Handshakes of streams until their capability is known to be right: so many at once, few of an address.

    Until then one costs a look into the database: for its session, or its trace. Beyond the bound the newest
    is refused: to cancel the oldest one's look would cost the database more than to end it.
    """

    def __init__(self, *, max_handshakes: int, max_per_address: int, address_header: str | None) -> None:
        self._max_handshakes = max_handshakes
        self._max_per_address = max_per_address
        self._address_header = address_header.lower().encode() if address_header else None
        self._in_use = 0
        self._in_use_by_address: Counter[str] = Counter()

    def acquire(self, scope: Any) -> HandshakePermit:
        """Let a handshake in. Raises Overloaded."""
        address = None if self._address_header is None else _address_of(scope, self._address_header)
        if self._in_use >= self._max_handshakes:
            raise _refusal("places")
        if address is not None:
            if self._in_use_by_address[address] >= self._max_per_address:
                raise _refusal("share")
            self._in_use_by_address[address] += 1
        self._in_use += 1
        IN_WORK.labels("handshakes").inc()
        return HandshakePermit(self, address)

    def release(self, address: str | None) -> None:
        """Count a handshake no more."""
        self._in_use -= 1
        IN_WORK.labels("handshakes").dec()
        if address is not None:
            self._in_use_by_address[address] -= 1
            if not self._in_use_by_address[address]:
                del self._in_use_by_address[address]


def _refusal(reason: str) -> Overloaded:
    REFUSED.labels("handshakes", reason).inc()
    return Overloaded(
        "more streams are being opened here than can be answered in time",
        retry_after_seconds=randint(*_RETRY_AFTER_SECONDS),  # noqa: S311 - scatters, hides nothing
    )


class UnauthenticatedLimits:
    """The rooms of all requests that tell in their bodies who sends them, and of handshakes."""

    def __init__(self, *, address_header: str | None) -> None:
        def pool(max_requests: int, max_seconds: float, max_per_address: int) -> UnauthenticatedPool:
            limit = UnauthenticatedLimit(
                max_requests=max_requests, max_seconds=max_seconds, max_per_address=max_per_address
            )
            return UnauthenticatedPool(limit, address_header=address_header)

        # Small rooms would only make those who drip come again more often.
        self.logins = pool(512, 3.0, 8)
        self.forms = pool(512, 5.0, 8)
        # The vendor sends from few addresses, and many at once.
        self.webhooks = pool(512, 5.0, 64)
        self.handshakes = HandshakeLimit(
            max_handshakes=MAX_HANDSHAKES, max_per_address=32, address_header=address_header
        )

    def pool_before_routing(self, scope: Any) -> UnauthenticatedPool | None:
        """Return the room in which a request waits before it is routed.

        Only for the usual spelling of its path: with another one it waits in its handler.
        """
        path: str = scope["path"]
        if scope["method"] != "POST" or not path.startswith(_READ_BEFORE_ROUTING):
            return None
        scope["path_template"] = path if path in _READ_BEFORE_ROUTING else _TENANT_WEBHOOKS_PATH
        return self.logins if path == _LOGIN_PATH else self.webhooks


def _address_of(scope: Any, header: bytes) -> str | None:
    """Return the client's address as the nearest proxy tells it: the last one, others may be made up."""
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
