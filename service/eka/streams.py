"""Connects to the vendor's live streams (docs/vendor.md#stream) with the `websockets` client."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import monotonic as now
from typing import Any
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.http11 import Response
from websockets.protocol import State

from service.domain.errors import (
    VendorError,
    VendorFailure,
    VendorLimited,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
)
from service.domain.ids import Account, VendorSessionId
from service.domain.streams.frames import Frame
from service.domain.streams.sides import FLUSH_SECONDS, VendorGone
from service.eka.call_limiter import CallLimiters
from service.eka.http_exchange import retry_after_of
from service.eka.metrics import counted
from service.eka.stream_receipts import ConfirmingConnection, Receipts
from service.http_client.tls_and_proxy import trusted_context
from service.observability.tracing import span, trace_headers

log = structlog.get_logger()

_OPEN_SECONDS = 8.0
# The pings keep the vendor's connection alive through proxies that cut a connection after 60 silent seconds;
# the EMR's leg has the same two numbers in service/http_server/server.py. A vendor that reads audio slowly
# also answers pings slowly, so it gets as long as for a stalled frame.
_PING_SECONDS, _PONG_SECONDS = 20.0, 45.0
_MAX_FRAME_BYTES = 1_048_576
# The limits of frames that wait in each direction: beyond them the sender slows down instead of us buffering.
_MAX_WAITING_FRAMES = 4
_MAX_WAITING_BYTES = 65_536


class EkaStream:
    """An open connection; implements the domain's VendorConnection."""

    def __init__(self, connection: ConfirmingConnection) -> None:
        self._connection = connection
        self._receipts = connection.receipts = Receipts(connection)

    async def receive(self) -> Frame:
        """Return the next frame. Raises VendorGone."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _gone(closed) from closed

    def send_now(self, frame: bytes) -> bool:
        """Send a frame without waiting; false if the vendor is slow or the connection is about to end."""
        connection, transport = self._connection, self._connection.transport
        if (
            connection.protocol.state is not State.OPEN
            or transport.is_closing()
            or transport.get_write_buffer_size() > _MAX_WAITING_BYTES
        ):
            return False
        connection.protocol.send_binary(frame)
        connection.send_data()
        receipts = self._receipts
        receipts.frames += 1
        receipts.times.append(now())
        receipts.until_ping -= len(frame)
        if receipts.until_ping <= 0:
            receipts.ask()
        return True

    async def send(self, frame: Frame) -> None:
        """Send a frame, waiting while the vendor is slow. Raises VendorGone."""
        try:
            await self._connection.send(frame)
        except ConnectionClosed as closed:
            raise _gone(closed) from closed
        receipts = self._receipts
        receipts.frames += 1
        receipts.times.append(now())
        receipts.until_ping -= len(frame)
        if receipts.until_ping <= 0:
            receipts.ask()

    async def close(self, code: int, seconds: float = FLUSH_SECONDS) -> None:
        """Close, and wait for the vendor's close frame; without it the connection is aborted."""
        try:
            async with asyncio.timeout(seconds):
                await self._connection.close(code)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Abort the connection; frames that still wait to be sent are lost."""
        self._connection.transport.abort()

    def report_confirmed(self, report: Callable[[int], None]) -> None:
        """Have `report` called with the number of frames that the vendor has now received for certain."""
        self._receipts.on_confirmed = report

    def unconfirmed_frames(self, sizes: Sequence[int]) -> int:
        """Return how many of the latest frames the vendor may lack, given the latest frames' sizes."""
        protocol = self._connection.protocol
        if protocol.close_rcvd_then_sent is False:
            return 0  # it answered our close, and so has read everything before
        return self._receipts.unconfirmed(sizes)


class EkaStreams:
    """Opens streams; implements the domain's VendorStreams."""

    def __init__(self, base_url: str, call_limiters: CallLimiters, *, hosts: Iterable[str] = ()) -> None:
        """`hosts` are the hosts of streams that are allowed besides the vendor's own host."""
        self._must_be_secure = base_url.startswith("https://")
        self._hosts = frozenset({urlsplit(base_url).hostname, *hosts})
        self._call_limiters = call_limiters

    async def open(self, account: Account, session_id: VendorSessionId, url: str) -> EkaStream:
        """Connect to exactly the address that create gave; it is the capability, so no token is sent.

        Connecting holds a permit of the account's limiter; an open stream holds none. Raises VendorError.
        """
        self._check(url)
        async with self._call_limiters.permit(account, "other", "stream", session_id):
            with span("eka stream", "client", {"ekabridge.operation": "stream"}), counted("stream") as count:
                connection = await _connect(url)
                count.outcome = "ok"
        return EkaStream(connection)

    def _check(self, url: str) -> None:
        """Refuse an address that must not receive patients' voices, even if the vendor's answer holds it."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
            url.encode()
        except ValueError:
            raise VendorFailure("EkaScribe gave an address that cannot be read", sent=False) from None
        if parts.scheme != "wss" and (parts.scheme != "ws" or self._must_be_secure):
            raise VendorFailure("EkaScribe gave an address that is no secure stream", sent=False)
        if host not in self._hosts or parts.username is not None:
            # The refused host is not logged, because the answer may hold any text in its place.
            log.warning("stream_host_refused", allowed=sorted(str(each) for each in self._hosts))
            raise VendorFailure(
                "EkaScribe gave a stream's address on a host that is not its own;"
                " EKA_STREAM_HOSTS can allow more",
                sent=False,
            )


async def _connect(url: str) -> ConfirmingConnection:
    try:
        connection: Any = await connect(
            url,
            create_connection=ConfirmingConnection,
            ssl=trusted_context() if urlsplit(url).scheme == "wss" else None,
            additional_headers=trace_headers(),
            compression=None,
            proxy=None,
            open_timeout=_OPEN_SECONDS,
            close_timeout=None,  # close() has its own
            ping_interval=_PING_SECONDS,
            ping_timeout=_PONG_SECONDS,
            max_size=_MAX_FRAME_BYTES,
            max_queue=_MAX_WAITING_FRAMES,
            write_limit=_MAX_WAITING_BYTES,
            process_exception=lambda error: error,
        )
    except TimeoutError as error:
        raise VendorTimeout("EkaScribe did not open the stream in time", sent=False) from error
    except InvalidStatus as error:
        raise _refused(error.response) from error
    except (OSError, WebSocketException) as error:
        raise VendorUnavailable("EkaScribe's stream cannot be reached", sent=False) from error
    made: ConfirmingConnection = connection
    return made


def _refused(response: Response) -> VendorError:
    status = response.status_code
    asked = retry_after_of(response.headers)
    detail = f"EkaScribe answered {status} to the stream"
    if status == 429:  # noqa: PLR2004
        return VendorLimited(detail, sent=False, retry_after_seconds=asked)
    if status >= 500:  # noqa: PLR2004
        kind = VendorUnavailable if status == 503 else VendorFailure  # noqa: PLR2004
        return kind(detail, sent=False, retry_after_seconds=asked)
    return VendorRefused(detail, status=status, vendor_code=None)


def _gone(closed: ConnectionClosed) -> VendorGone:
    received = closed.rcvd
    # Without a close frame from the vendor the connection broke, or we closed it after a protocol error.
    return VendorGone(received.code, received.reason) if received else VendorGone(1006)
