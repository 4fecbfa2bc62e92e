"""The door of live streams: a WebSocket at a session's `stream_url`, opened by whoever has that address.

Until it is open, what is wrong is told as an HTTP problem; afterwards by a close code and a reason.
"""

from typing import Any

import msgspec
import structlog
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketException
from litestar.params import FromPath

from schemas.problems import MEDIA_TYPE
from service.api.problems import bridge_problem
from service.api.services import Services
from service.domain.errors import BridgeError
from service.domain.ids import SessionId
from service.domain.relay import ClientGone, Frame, Restarting
from service.logs import failure

log = structlog.get_logger()
Socket = WebSocket[Any, Any, Any]
_GONE = (OSError, RuntimeError, WebSocketException)


class SocketClient:
    """The domain's Client over a WebSocket's own messages: nothing stands between a frame and its relay."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def receive(self) -> Frame:
        """The next frame. Raises ClientGone."""
        message: Any = await self._socket.receive()
        if message["type"] != "websocket.receive":
            raise ClientGone(message.get("code") or 1005, message.get("reason") or "")
        frame: Frame | None = message.get("bytes")
        if frame is None:
            frame = message.get("text")
        if frame is None:  # see service/parting.py
            raise Restarting
        return frame

    async def send(self, frame: Frame) -> None:
        """Pass a frame on. Raises ClientGone."""
        text, binary = (frame, None) if isinstance(frame, str) else (None, frame)
        try:
            await self._socket.send({"type": "websocket.send", "text": text, "bytes": binary})
        except _GONE as error:
            raise ClientGone(1006) from error

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket, if it is still there."""
        try:
            await self._socket.close(code, reason)
        except _GONE:
            log.debug("stream_client_was_gone")


@websocket("/v1/stream/{session_id:str}/{capability:str}")
async def stream_audio(
    socket: Socket,
    services: NamedDependency[Services],
    session_id: FromPath[str],
    capability: FromPath[str],
) -> None:
    """Relay a stream to EkaScribe (seed 004)."""
    client = SocketClient(socket)
    try:
        async with services.streams.opened(SessionId(session_id), capability) as stream:
            await socket.accept()
            try:
                await stream.run(client)
            except Exception as error:  # noqa: BLE001 - a process boundary: the client is told, the stream freed
                log.error("stream_broke", session_id=stream.session_id, **failure(error))
                await client.close(1011, "something went wrong on our side; reopen this URL")
    except BridgeError as error:
        log.info("stream_refused", code=error.code)
        await _refuse(socket, error)


async def _refuse(socket: Socket, error: BridgeError) -> None:
    answer = bridge_problem(socket.scope, error)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        *((name.lower().encode(), str(value).encode()) for name, value in answer.headers.items()),
    ]
    status, body = answer.status_code or 500, msgspec.json.encode(answer.content)
    start: Any = {"type": "websocket.http.response.start", "status": status, "headers": headers}
    await socket.send(start)
    end: Any = {"type": "websocket.http.response.body", "body": body, "more_body": False}
    await socket.send(end)
