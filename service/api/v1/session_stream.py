"""The route of live audio: a WebSocket at a session's `stream_url`, whose secret capability authenticates it.

Before the WebSocket is open, errors are HTTP problems; afterwards, close codes with a reason.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketException
from litestar.params import FromPath
from prometheus_client import Counter, Gauge

from schemas.problems import MEDIA_TYPE
from service.api.dependencies import Services
from service.api.problem_responses import bridge_problem
from service.domain.errors import BridgeError, Overloaded
from service.domain.ids import SessionId
from service.domain.streams.frames import Frame
from service.domain.streams.sides import ClientGone, Restarting
from service.http_server import on_binary_frame
from service.observability.logging import describe_failure
from service.observability.tracing import span_of

log = structlog.get_logger()
Socket = WebSocket[Any, Any, Any]
_CLIENT_GONE = (OSError, RuntimeError, WebSocketException)
_INTERNAL_ERROR = 1011
_MAX_SHOWN_CHARACTERS = 32

OPEN = Gauge("ekabridge_streams_open", "Live streams that are open.", multiprocess_mode="livesum")
CLOSES = Counter(
    "ekabridge_stream_closes", "Streams that ended, by the close code between us and the client.", ("code",)
)
for _code in ("1000", "1011", "1012", "1014"):
    CLOSES.labels(_code)  # series start at 0: rate() misses the first event of a series
FRAMES = Counter(
    "ekabridge_stream_frames", "Frames: up from clients to EkaScribe, down from it to them.", ("direction",)
)
BYTES = Counter(
    "ekabridge_stream_bytes", "Bytes of audio and characters of text in these frames.", ("direction",)
)
_UP, _DOWN = ((FRAMES.labels(direction), BYTES.labels(direction)) for direction in ("up", "down"))


class SocketClient:
    """The domain's Client, directly on ASGI messages: each extra layer would cost CPU for every frame."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def receive(self) -> Frame:
        """Return the next frame. Raises ClientGone, or Restarting if the server shuts down."""
        message: Any = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise ClientGone(message.get("code") or 1005, message.get("reason") or "")
        frame: Frame | None = message.get("bytes")
        if frame is None:
            frame = message.get("text")
        if frame is None:  # see service/http_server/graceful_shutdown.py
            raise Restarting
        frames, size = _UP
        frames.inc()
        size.inc(len(frame))
        return frame

    def give_frames(self, relay: Callable[[bytes], bool]) -> None:
        """Have the server call `relay` directly for each binary frame, if it supports that."""
        frames, size = _UP

        def relay_and_count(frame: bytes) -> bool:
            if not relay(frame):
                return False
            frames.inc()
            size.inc(len(frame))
            return True

        on_binary_frame(self._socket.scope, relay_and_count)

    async def send(self, frame: Frame) -> None:
        """Send a frame to the client. Raises ClientGone."""
        text, binary = (frame, None) if isinstance(frame, str) else (None, frame)
        try:
            await self._socket.send({"type": "websocket.send", "text": text, "bytes": binary})
        except _CLIENT_GONE as error:
            raise ClientGone(1006) from error
        frames, size = _DOWN
        frames.inc()
        size.inc(len(frame))

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket unless the client is gone."""
        try:
            await self._socket.close(code, reason)
        except _CLIENT_GONE:
            log.debug("stream_client_was_gone")


@websocket("/v1/stream/{session_id:str}/{capability:str}")
async def stream_audio(
    socket: Socket,
    services: NamedDependency[Services],
    session_id: FromPath[str],
    capability: FromPath[str],
) -> None:
    """Relay a client's live audio to EkaScribe and its results back (docs/vendor.md#stream)."""
    try:
        permit = services.access.unauthenticated_limits.handshakes.acquire(socket.scope)
    except Overloaded as error:
        await _refuse(socket, error)
        return
    with permit:
        parent = await services.traces.traceparent_of(SessionId(session_id))
        with span_of(
            parent, "stream", "server", {"ekabridge.session_id": session_id[:_MAX_SHOWN_CHARACTERS]}
        ):
            await _stream(socket, services, SessionId(session_id), capability, permit.release)


async def _stream(
    socket: Socket, services: Services, session_id: SessionId, capability: str, on_known: Callable[[], None]
) -> None:
    client = SocketClient(socket)
    try:
        async with services.audio.streams.opened(session_id, capability, on_known) as stream:
            await socket.accept()
            OPEN.inc()
            try:
                await stream.run(client)
            except Exception as error:  # noqa: BLE001 - a boundary: any error closes the WebSocket, frees the stream
                log.error("stream_broke", session_id=stream.session_id, **describe_failure(error))
                await client.close(_INTERNAL_ERROR, "something went wrong on our side; reopen this URL")
            finally:
                OPEN.dec()
                CLOSES.labels(str(_INTERNAL_ERROR if stream.end.code is None else stream.end.code)).inc()
    except BridgeError as error:
        log.info("stream_refused", code=error.code)
        await _refuse(socket, error)


async def _refuse(socket: Socket, error: BridgeError) -> None:
    response = bridge_problem(socket.scope, error)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        *((name.lower().encode(), str(value).encode()) for name, value in response.headers.items()),
    ]
    status, body = response.status_code or 500, msgspec.json.encode(response.content)
    start: Any = {"type": "websocket.http.response.start", "status": status, "headers": headers}
    await socket.send(start)
    end: Any = {"type": "websocket.http.response.body", "body": body, "more_body": False}
    await socket.send(end)
