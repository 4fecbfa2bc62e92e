"""How the server tells whoever holds a connection open that the process is to stop."""

from collections.abc import Callable
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_KEY = "ekabridge.parting"


def when_parting(scope: Any, let_go: Callable[[], None]) -> None:
    """Have `let_go` called when the process is to stop while this request is still being answered."""
    scope[_KEY] = let_go


class PartingHttp(HttpToolsProtocol):
    """Lets go of whoever waits for something to happen, which a server that stops would wait for, too."""

    def shutdown(self) -> None:
        """Called for each connection when the process is to stop."""
        cycle: Any = self.cycle  # None before the connection's first request
        let_go = cycle.scope.get(_KEY) if cycle is not None and not cycle.response_complete else None
        if let_go is not None:
            let_go()
        super().shutdown()


class PartingWebSocket(WebSocketsSansIOProtocol):
    """Lets whoever serves a WebSocket say goodbye itself when the process stops.

    uvicorn's own goodbye goes out at once: the client would not learn how much of what it sent was taken.
    """

    def data_received(self, data: bytes) -> None:
        """Hand on what came before a fault, too: uvicorn's own drops the good frames of the same read."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application's."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # A WebSocket that was refused needs no handshake any more; uvicorn logs an error for each.
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Tell the application, which closes with a reason; uvicorn calls this when it is to stop."""
        if self.handshake_complete and not self.close_sent:
            self.stop_keepalive()
            # A frame with nothing in it, behind all frames that came: the connection is still open.
            nothing: Any = {"type": "websocket.receive", "bytes": None, "text": None}
            self.queue.put_nowait(nothing)
        else:
            super().shutdown()


# For every server of ours. A frame of more than 1 MiB closes its stream with 1009. Pings keep streams alive
# through proxies that cut what is silent for 60 s; a client that back-pressure slows down answers
# behind its frames, so it gets as long as a stalled frame.
PROTOCOLS: dict[str, Any] = {
    "http": PartingHttp,
    "ws": PartingWebSocket,
    "ws_max_size": 1_048_576,
    "ws_per_message_deflate": False,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 45.0,
}
