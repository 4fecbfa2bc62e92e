"""How the server tells whoever holds a connection open that the process is to stop."""

from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn._types import ASGISendEvent

from service.http_server.http_limits import CUT, LimitedHttpProtocol
from service.http_server.websocket_fast_path import FastPathWebSocketProtocol

_LET_GO = "ekabridge.parting.let_go"
_GIVE_UP = "ekabridge.parting.give_up"
_IS_PARTING = "ekabridge.parting"
# Of the time that what is in hand has, connections on which nothing is asked stay open for this share.
_IDLE_SHARE = 1 / 8
# What may wait to be read by the client of a WebSocket when it sends a ping: frames are held back before.
_MAX_UNREAD_BYTES = 1_048_576


def on_shutdown(scope: Any, let_go: Callable[[], None]) -> None:
    """Have `let_go` called when the process is to stop while this request is still being answered."""
    scope[_LET_GO] = let_go
    if is_shutting_down(scope):
        let_go()


def on_deadline(scope: Any, give_up: Callable[[], Awaitable[None]]) -> None:
    """Have `give_up` called when the time is over and this request has no answer, although it was ended."""
    scope[_GIVE_UP] = give_up


def is_shutting_down(scope: Any) -> bool:
    """Whether the process that answers this request is to stop."""
    return _IS_PARTING in scope


class DrainingHttpProtocol(LimitedHttpProtocol):
    """Parts with its client after the answer that is due, and from an idle one after a while.

    A request may be on its way on a connection that is idle here: closing it at once would reset a call that
    nobody told to come again. So such connections are served for a while yet, one request more each.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_last = False

    def shutdown(self) -> None:
        """Called for each connection when the process is to stop."""
        self._is_last = True
        if self._is_answering():
            self._make_last(self.cycle)
        seconds = (self.config.timeout_graceful_shutdown or 0) * _IDLE_SHARE
        self.loop.call_later(seconds, self._part_if_idle)

    def on_headers_complete(self) -> None:
        """A request has come; when the process is to stop, it is the connection's last one."""
        super().on_headers_complete()
        cycle: Any = self.cycle  # None before the connection's first request
        if self._is_last and cycle is not None and cycle.scope is self.scope:
            self._make_last(cycle)

    def handle_websocket_upgrade(self) -> None:
        """Open a WebSocket; when the process is to stop, to say so in its own words."""
        super().handle_websocket_upgrade()
        opened = self.transport.get_protocol()
        if self._is_last and isinstance(opened, DrainingWebSocketProtocol):
            opened.shutdown()

    def _make_last(self, cycle: Any) -> None:
        cycle.keep_alive = False
        cycle.scope[_IS_PARTING] = True
        if (let_go := cycle.scope.get(_LET_GO)) is not None:
            let_go()

    def _part_if_idle(self) -> None:
        if not self._is_answering() and self._head_since is None and not self.transport.is_closing():
            self.part()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    async def give_up(self) -> None:
        """Answer the request that is still being answered, whatever its task does."""
        scope: Any = self.cycle.scope if self._is_answering() else {}
        if (give_up := scope.get(_GIVE_UP)) is not None:
            await give_up()


class DrainingWebSocketProtocol(FastPathWebSocketProtocol):
    """Lets whoever serves a WebSocket say goodbye itself when the process stops.

    uvicorn's own goodbye goes out at once: the client would not learn how much of what it sent was taken.
    """

    def handle_ping(self) -> None:
        """Answer a ping; whoever sends pings and reads no answers would fill the memory with them."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            CUT.labels("answer_not_read").inc()
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application's."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # A WebSocket that was refused needs no handshake any more; uvicorn logs an error for each.
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Tell the application, which closes with a reason; uvicorn calls this when it is to stop."""
        if self.close_sent:
            super().shutdown()
            return
        self.stop_keepalive()
        # A frame with nothing in it, behind all frames that came: the connection is still open. One that is
        # only being opened is opened first: a client understands a close code better than a failed handshake.
        nothing: Any = {"type": "websocket.receive", "bytes": None, "text": None}
        self.queue.put_nowait(nothing)


# For every server of ours. A frame of more than 1 MiB closes its stream with 1009. Pings keep streams alive
# through proxies that cut what is silent for 60 s; a client that back-pressure slows down answers
# behind its frames, so it gets as long as a stalled frame.
PROTOCOLS: dict[str, Any] = {
    "http": DrainingHttpProtocol,
    "ws": DrainingWebSocketProtocol,
    "ws_max_size": 1_048_576,
    "ws_per_message_deflate": False,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 45.0,
}
