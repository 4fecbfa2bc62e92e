"""Ends connections when their process stops: after the answer that is due, and an idle one after a while."""

from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn._types import ASGISendEvent

from service.http_server.http_limits import CUT, LimitedHttpProtocol
from service.http_server.websocket_fast_path import FastPathWebSocketProtocol

_ON_SHUTDOWN = "ekabridge.on_shutdown"
_ON_DEADLINE = "ekabridge.on_deadline"
_IS_SHUTTING_DOWN = "ekabridge.is_shutting_down"
# Idle connections stay open for this share of the time that requests have to finish.
_IDLE_SHARE = 1 / 8
# Frames wait for the client to read; pongs do not, so this bounds how many of them may be unread.
_MAX_UNREAD_BYTES = 1_048_576


def on_shutdown(scope: Any, callback: Callable[[], None]) -> None:
    """Have `callback` called if the process begins to stop while this request is being answered."""
    scope[_ON_SHUTDOWN] = callback
    if is_shutting_down(scope):
        callback()


def on_deadline(scope: Any, answer: Callable[[], Awaitable[None]]) -> None:
    """Have `answer` called if this request was cancelled at the deadline and has sent no answer itself."""
    scope[_ON_DEADLINE] = answer


def is_shutting_down(scope: Any) -> bool:
    """Whether the process that answers this request is stopping."""
    return _IS_SHUTTING_DOWN in scope


class DrainingHttpProtocol(LimitedHttpProtocol):
    """Closes a connection after the answer that is due, and an idle one only after a while.

    A request may be on its way on a connection that is idle here. Closing it at once would reset a call that
    no answer told to retry. So an idle connection stays open for a while and serves one more request.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._is_draining = False

    def shutdown(self) -> None:
        """Begin to drain; the server calls this for each connection when the process is to stop."""
        self._is_draining = True
        if self._is_answering():
            self._make_last(self.cycle)
        seconds = (self.config.timeout_graceful_shutdown or 0) * _IDLE_SHARE
        self.loop.call_later(seconds, self._close_if_idle)

    def on_headers_complete(self) -> None:
        """Begin to serve a request; while the process stops it is the connection's last one."""
        super().on_headers_complete()
        cycle: Any = self.cycle  # None before the connection's first request
        if self._is_draining and cycle is not None and cycle.scope is self.scope:
            self._make_last(cycle)

    def handle_websocket_upgrade(self) -> None:
        """Open a WebSocket; while the process stops it is told so as soon as it is open."""
        super().handle_websocket_upgrade()
        opened = self.transport.get_protocol()
        if self._is_draining and isinstance(opened, DrainingWebSocketProtocol):
            opened.shutdown()

    def _make_last(self, cycle: Any) -> None:
        cycle.keep_alive = False
        cycle.scope[_IS_SHUTTING_DOWN] = True
        if (callback := cycle.scope.get(_ON_SHUTDOWN)) is not None:
            callback()

    def _close_if_idle(self) -> None:
        if not self._is_answering() and self._head_since is None and not self.transport.is_closing():
            self.close_gracefully()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    async def answer_at_deadline(self) -> None:
        """Answer the request that has no answer yet, whatever its task does."""
        scope: Any = self.cycle.scope if self._is_answering() else {}
        if (answer := scope.get(_ON_DEADLINE)) is not None:
            await answer()


class DrainingWebSocketProtocol(FastPathWebSocketProtocol):
    """Lets the application close a WebSocket with its own reason when the process stops.

    uvicorn sends its close frame at once; the client would not learn how much of its audio was passed on.
    """

    def handle_ping(self) -> None:
        """Answer a ping; a client that sends pings and reads no pongs would fill the memory with them."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            CUT.labels("answer_not_read").inc()
            self.transport.abort()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application's."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # uvicorn logs an error for each WebSocket that was refused unless its handshake counts as done.
            self.handshake_complete = True

    def shutdown(self) -> None:
        """Tell the application that the process stops; it closes with a code and a reason."""
        if self.close_sent:
            super().shutdown()
            return
        self.stop_keepalive()
        # An empty message, queued behind all frames that came, is the signal. A WebSocket that is still being
        # opened is opened first: clients understand a close code better than a failed handshake.
        nothing: Any = {"type": "websocket.receive", "bytes": None, "text": None}
        self.queue.put_nowait(nothing)
