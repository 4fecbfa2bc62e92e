"""The vendor's side of a live stream (docs/vendor.md#stream), by the `websockets` client."""

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.client import ClientConnection, connect
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
from service.domain.ids import Account, SessionId
from service.domain.streams.relay import FLUSH_SECONDS, Frame, VendorGone
from service.eka.call_limiter import CallLimiters
from service.eka.http_exchange import retry_after_of
from service.eka.metrics import counted
from service.eka.tls import trusted_context
from service.observability.tracing import span, trace_headers

log = structlog.get_logger()

_OPEN_SECONDS = 8.0
# Both sides stay alive through proxies that cut what is silent for 60 s; a vendor that is slow to take audio
# is slow to answer pings, too, and gets as long as a stalled frame.
_PING_SECONDS, _PONG_SECONDS = 20.0, 45.0
_MAX_FRAME_BYTES = 1_048_576
# Frames that wait here in each direction, at most: back-pressure, not memory.
_MAX_WAITING_FRAMES = 4
_MAX_WAITING_BYTES = 65_536


class EkaStream:
    """An open connection as the domain's VendorStream."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def receive(self) -> Frame:
        """The next frame. Raises VendorGone."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _gone(closed) from closed

    def send_now(self, frame: bytes) -> bool:
        """Pass a frame on, unless the vendor is slow or the connection is about to end."""
        connection, transport = self._connection, self._connection.transport
        if (
            connection.protocol.state is not State.OPEN
            or transport.is_closing()
            or transport.get_write_buffer_size() > _MAX_WAITING_BYTES
        ):
            return False
        connection.protocol.send_binary(frame)
        connection.send_data()
        return True

    async def send(self, frame: Frame) -> None:
        """Pass a frame on, waiting while the vendor is slow. Raises VendorGone."""
        try:
            await self._connection.send(frame)
        except ConnectionClosed as closed:
            raise _gone(closed) from closed

    async def close(self, code: int, seconds: float = FLUSH_SECONDS) -> None:
        """Close and wait for the vendor to close, too; one that does not is cut off."""
        try:
            async with asyncio.timeout(seconds):
                await self._connection.close(code)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut the connection off: what still waits to be sent is dropped."""
        self._connection.transport.abort()


class EkaStreams:
    """The domain's VendorStreams."""

    def __init__(self, base_url: str, call_limiters: CallLimiters, *, hosts: Iterable[str] = ()) -> None:
        """`hosts`: where the vendor's streams may lead besides its own host."""
        self._must_be_secure = base_url.startswith("https://")
        self._hosts = frozenset({urlsplit(base_url).hostname, *hosts})
        self._call_limiters = call_limiters

    async def open(self, account: Account, session_id: SessionId, url: str) -> EkaStream:
        """Connect to the address that create gave, exactly as it is; it is the capability, no token is sent.

        Connecting passes the account's gate; a stream that is open holds no place. Raises VendorError.
        """
        self._check(url)
        async with self._call_limiters.permit(account, "other", "stream", session_id):
            with span("eka stream", "client", {"ekabridge.operation": "stream"}), counted("stream") as count:
                connection = await _connect(url)
                count.outcome = "ok"
        return EkaStream(connection)

    def _check(self, url: str) -> None:
        """Refuse an address that patients' voices must not be sent to, whoever put it into an answer."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
            url.encode()
        except ValueError:
            raise VendorFailure("EkaScribe gave an address that cannot be read", sent=False) from None
        if parts.scheme != "wss" and (parts.scheme != "ws" or self._must_be_secure):
            raise VendorFailure("EkaScribe gave an address that is no secure stream", sent=False)
        if host not in self._hosts or parts.username is not None:
            # The host may be anything that the answer holds: it is told to nobody.
            log.warning("stream_host_refused", allowed=sorted(str(each) for each in self._hosts))
            raise VendorFailure(
                "EkaScribe gave a stream's address on a host that is not its own;"
                " EKA_STREAM_HOSTS can allow more",
                sent=False,
            )


async def _connect(url: str) -> ClientConnection:
    try:
        return await connect(
            url,
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
    # Without a close frame of the vendor's the connection broke, or we closed it for a fault of the vendor's.
    return VendorGone(received.code, received.reason) if received else VendorGone(1006)
