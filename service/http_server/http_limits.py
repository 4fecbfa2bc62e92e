"""Limits of what one HTTP connection may cost: its heads, its time, its unread answers. uvicorn has none.

A request that breaks a limit never reaches the application, so the server answers it with a problem itself.
"""

from asyncio import Transport
from typing import Any

import httptools
from prometheus_client import Counter
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.http_server.connection_owners import CONNECTION, owners_of
from service.http_server.error_responses import count_refusal, error_response
from service.http_server.request_framing import (
    RequestRefusedError,
    announces_body,
    check_framing,
    head_without_upgrade,
    refuse,
)
from service.http_server.unread_output import UnreadOutput

# The key of the lifespan's state under which an application sets its limit (ASGI, Lifespan State).
MAX_CONNECTIONS = "ekabridge.max_connections"
CUT = Counter("ekabridge_http_connections_cut", "Connections that we cut.", ("reason",))

_ALWAYS_SERVED = (b"/health/", b"/metrics")
_TOO_MANY = "too many connections are open here"


class _GracefulTransport:
    """The transport that a request sees: `close` lets the client read its answer first.

    It forgets its connection when that closes: a cycle of references would be left to the garbage collector.
    """

    def __init__(self, connection: "LimitedHttpProtocol") -> None:
        self._connection: LimitedHttpProtocol | None = connection

    def detach(self) -> None:
        self._connection = None

    def write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.output.written_bytes += len(data)
            self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection is None or self._connection.is_closing

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close_gracefully()


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 for clients that are hostile, broken or gone. Times are in seconds, sizes in bytes.

    Beyond `max_connections`, which the application may set, `spare_connections` more serve health and metrics
    alone: a liveness probe that finds no connection would restart a process that is only busy.
    """

    max_head_bytes = 32_768
    max_headers = 100
    max_connections = 4096
    spare_connections = 32
    # uvicorn keeps every request that a client pipelines, and one read may hold ten thousand of them.
    max_pipelined = 16
    silent_seconds = 20.0
    head_seconds = 10.0
    # For so long a client may read hardly anything of its answer.
    unread_seconds = 30.0
    # A WebSocket's client also has to answer pings.
    unread_stream_seconds = 45.0
    # For how long a client may go on sending a body after its answer: in all, and without a pause.
    unwanted_seconds = 60.0
    unwanted_pause_seconds = 10.0
    # One timer for each connection checks all of its limits; a timer for each read would cost more.
    check_seconds = 2.0

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.max_connections = app_state.get(MAX_CONNECTIONS, self.max_connections)
        self._owners = owners_of(server_state)
        self.owner: str | None = None
        self._graceful_transport = _GracefulTransport(self)
        self._timer: Any = None
        # The connection's age by its own timer: no client's time runs while the whole process stands still.
        self._now = self._received_at = 0.0
        self._has_sent = self._is_spare = self._ignores_input = False
        self._closing_since: float | None = None
        # The head that is being read; `_has_turned` says that a head or a body ended in this read.
        self._in_head = self._in_body = self._has_turned = False
        self._head_since: float | None = None
        self._head_bytes = self._field_bytes = self._fields = 0
        # The body that is being read, and what came around it since its last byte.
        self._body_bytes = self._framing_bytes = 0
        self._answered_at: float | None = None
        self.output = UnreadOutput()

    @property
    def is_closing(self) -> bool:
        """Whether the client gets nothing more on this connection."""
        return self._closing_since is not None or self.transport.is_closing()

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is due."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    @property
    def may_be_cut(self) -> bool:
        """Whether no complete request waits here for its answer."""
        cycle: Any = self.cycle
        return not self._is_spare and (self._is_idle or cycle.more_body)

    def assign_owner(self, owner: str, *, is_limited: bool) -> bool:
        """Count the connection as this owner's; false if the owner has three quarters of all already."""
        quota = max(1, self.max_connections * 3 // 4) if is_limited else None
        return owner == self.owner or self._owners.assign(self, owner, quota)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it when too many are open."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.check_seconds, self._check_times)
        self._owners.add(self)
        beyond = len(self.connections) - self._owners.cut_count - self.max_connections
        if beyond > 0 and self._owners.cut_oldest_unauthenticated(self):
            beyond = 0
        self._is_spare = beyond > 0
        if beyond > self.spare_connections:
            # Not closed gracefully: that takes time, for which there is no connection.
            self._ignores_input = True
            count_refusal("overloaded")
            transport.write(error_response("overloaded", _TOO_MANY))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything that knows the connection."""
        self._timer.cancel()
        self._owners.remove(self)
        self._graceful_transport.detach()
        scope: Any = getattr(self, "scope", None)
        if scope is not None:  # there is none before the first request
            scope.pop(CONNECTION, None)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the WebSocket protocol; only unread output is limited from here on."""
        self._timer.cancel()
        self._owners.remove(self)
        super().handle_websocket_upgrade()
        opened: Any = self.transport.get_protocol()
        if not opened.handshake_initiated and not self.transport.is_closing():
            # The WebSocket library is silent about a handshake that it cannot read, and waits for ever.
            count_refusal("invalid_request")
            detail = "this opens no WebSocket as RFC 6455 has it"
            self.transport.write(error_response("invalid_request", detail))
            self.transport.close()
        self.output = UnreadOutput()
        self._timer = self.loop.call_later(self.check_seconds, self._check_stream)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Parse what came, until a limit is broken."""
        self._received_at, self._has_sent = self._now, True
        if self._ignores_input:
            return
        self._unset_keepalive_if_required()
        self._has_turned, body_bytes = False, self._body_bytes
        try:
            self.parser.feed_data(data)
            self._count(len(data), has_body=self._body_bytes > body_bytes)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            reason = error.__context__
            if not isinstance(reason, RequestRefusedError):
                reason = RequestRefusedError("invalid_request", "this is not HTTP as RFC 9112 has it")
            self._refuse(reason.code, reason.detail)
        except RequestRefusedError as refused:
            self._refuse(refused.code, refused.detail)

    def _count(self, size: int, *, has_body: bool) -> None:
        """Count bytes that completed no head and brought no body."""
        if self._has_turned:
            # Where in this read the next head began is unknown; its fields are counted one by one.
            self._head_bytes = self._framing_bytes = 0
            self._head_since = self._received_at if self._in_head else None
        elif self._in_body:
            # Extensions and trailers of chunks. The parser keeps a trailer until it ends.
            self._framing_bytes = 0 if has_body else self._framing_bytes + size
            if self._framing_bytes > self.max_head_bytes:
                refuse("invalid_request", "the chunks of the body are all frame and no content")
        else:
            if self._head_since is None:
                self._head_since = self._received_at
            self._head_bytes += size
            self._check_head()

    def _check_head(self) -> None:
        if max(self._head_bytes, self._field_bytes) > self.max_head_bytes:
            refuse("headers_too_large", f"a request's head may have {self.max_head_bytes} bytes")
        if self._fields > self.max_headers:
            refuse("headers_too_large", f"a request may have {self.max_headers} header fields")

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._unset_keepalive_if_required()
        self._in_head = True
        self._field_bytes = self._fields = 0
        super().on_message_begin()
        extended: Any = self.scope
        extended[CONNECTION] = self

    def on_url(self, url: bytes) -> None:
        """Count a piece of the request's address."""
        super().on_url(url)
        self._field_bytes += len(url)
        self._check_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field; ignore a trailer, which uvicorn would take for a header."""
        if not self._in_head:
            return
        self._fields += 1
        self._field_bytes += len(name) + len(value) + 4
        self._check_head()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the whole head, then begin to serve the request."""
        self._in_head, self._in_body, self._has_turned = False, True, True
        self._body_bytes = 0
        self._answered_at = None
        check_framing(self.parser.get_http_version(), self.parser.get_method(), self.headers)
        if len(self.pipeline) >= self.max_pipelined:
            refuse("overloaded", "too many requests were sent ahead")
        if self._is_spare and not self.url.startswith(_ALWAYS_SERVED):
            refuse("overloaded", _TOO_MANY)
        if self.parser.should_upgrade() and not self._should_upgrade():
            return  # see _decline_upgrade
        if self.parser.should_upgrade() and not self._is_idle:
            refuse("invalid_request", "a WebSocket cannot be opened before the answers that are due")
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.cycle.transport = self._graceful_transport  # type: ignore[assignment]

    def _should_upgrade(self) -> bool:
        """Whether to open a WebSocket: only a GET without a body asks for one (RFC 6455, 4.1)."""
        is_plain_get = self.parser.get_method() == b"GET" and not announces_body(self.headers)
        return super()._should_upgrade() and is_plain_get

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer: with the offer, the parser would drop its body."""
        head = head_without_upgrade(self.parser.get_method(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._in_body = False
        self.data_received(head + rest)

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._in_body, self._has_turned = False, True
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self._is_idle and self.timeout_keep_alive_task is None:
            # The answer came before the request was whole, when uvicorn could not start this timer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # Answering

    def on_response_complete(self) -> None:
        """Note that the answer is sent; the request may not be whole yet."""
        if self._in_body:
            self._answered_at = self._received_at = self._now
        if self._head_since is not None:
            self._head_since = self._now  # the time of a pipelined head begins with its turn
        if self._closing_since is None:
            super().on_response_complete()

    def close_gracefully(self) -> None:
        """Close the connection so that the client receives the answer, even while it sends (RFC 9112, 9.6).

        The kernel resets a socket that is closed with unread input, and a reset can destroy the answer.
        """
        if self.is_closing:
            return
        if not (self._in_body or self._in_head or self._ignores_input):
            self.transport.close()
            return
        self._ignores_input = True
        self._closing_since = self._received_at = self._now
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _refuse(self, code: str, detail: str) -> None:
        """Answer input that never became a request, and ignore the rest; answers that are due go first."""
        count_refusal(code)
        self._ignores_input = True
        cycle = self.cycle
        if not self._is_idle:
            if cycle.response_started or self.pipeline or not cycle.more_body:
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(error_response(code, detail))
        self.close_gracefully()

    # Time

    def _check_times(self) -> None:
        """Close the connection if its client took too long for something."""
        now = self._now = self._now + self.check_seconds
        reason = self._reason_to_cut(now)
        if reason is not None:
            self.cut(reason)
            return
        self._timer = self.loop.call_later(self.check_seconds, self._check_times)
        if self._ignores_input or not self._is_idle:
            return
        if self._head_since is not None and now - self._head_since > self.head_seconds:
            if self._in_head:
                self._refuse("header_timeout", f"a request's head may take {self.head_seconds:g} seconds")
            else:
                self.transport.close()
        elif not self._has_sent and now > self.silent_seconds:
            self.transport.close()

    def _check_stream(self) -> None:
        """Cut a WebSocket whose client does not read: its library would wait for that even to close it."""
        now = self._now = self._now + self.check_seconds
        unread = self.transport.get_write_buffer_size()
        if self.output.stream_stalled_seconds(now, unread) > self.unread_stream_seconds:
            self.cut("answer_not_read")
        elif unread or not self.transport.is_closing():
            self._timer = self.loop.call_later(self.check_seconds, self._check_stream)

    def _reason_to_cut(self, now: float) -> str | None:
        unread = self.transport.get_write_buffer_size()
        if self.output.stalled_seconds(now, unread) > self.unread_seconds:
            return "answer_not_read"
        since = self._closing_since
        if since is None and self._in_body:
            since = self._answered_at
        if since is None:
            return None
        is_over = now - since > self.unwanted_seconds or now - self._received_at > self.unwanted_pause_seconds
        return "went_on_sending" if is_over else None

    def cut_unread(self) -> None:
        """Cut the connection if its client leaves an answer unread while others wait for its memory."""
        if self.transport.get_write_buffer_size():
            self.cut("answer_not_read")

    def cut(self, reason: str) -> None:
        """Cut the connection."""
        CUT.labels(reason).inc()
        self.transport.abort()
