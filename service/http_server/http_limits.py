"""What one connection may cost: its headers, its time, its unread answers; uvicorn by itself bounds none.

What is refused here never reaches the application, so it is told here, as the same kind of problem.
"""

from asyncio import Transport
from typing import Any, NoReturn

import httptools
from prometheus_client import Counter
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.http_server.connection_owners import CONNECTION, owners_of
from service.http_server.error_responses import count_refusal, refusal

# Of the lifespan's state, by which an application tells its server things (ASGI, Lifespan State).
MAX_CONNECTIONS = "ekabridge.most_connections"
CUT = Counter("ekabridge_http_connections_cut", "Connections that we cut.", ("reason",))

_ALWAYS_SERVED = (b"/health/", b"/metrics")
_TOO_MANY = "too many connections are open here"
_VERSIONS = frozenset({"1.0", "1.1"})
_OF_AN_UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})
_OF_A_BODY = frozenset({b"content-length", b"transfer-encoding"})


class _RefusedError(Exception):
    """Ends the parsing of a request; the parser hands it on as the context of its own error."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _GracefulTransport:
    """The transport as a request sees it: to close it is to part with the client in order.

    It knows its connection while that is open: two that know each other for ever are garbage to look for.
    """

    def __init__(self, connection: "LimitedHttpProtocol") -> None:
        self._connection: LimitedHttpProtocol | None = connection

    def leave(self) -> None:
        self._connection = None

    def write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.written_bytes += len(data)
            self._connection.transport.write(data)

    def is_closing(self) -> bool:
        return self._connection is None or self._connection.is_shutting_down

    def close(self) -> None:
        if self._connection is not None:
            self._connection.part()


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 for clients that may mean harm, be broken, or be gone. Times in seconds, sizes in bytes.

    Beyond `most_connections`, which the application may set, a few more are let in for health and metrics
    alone, so that a flood of connections does not make a probe fail.
    """

    max_head_bytes = 32_768
    max_headers = 100
    max_connections = 4096
    spare_connections = 32
    # A client may send some requests ahead; in one read there could be thousands.
    max_pipelined = 16
    # Sizes, extensions and trailers of chunks: so much, and so many times as much as what they carry.
    free_framing_bytes = 16_384
    max_framing_ratio = 16
    silent_seconds = 20.0
    head_seconds = 10.0
    # In so long a client reads so much of what was written for it.
    unread_seconds = 30.0
    min_read_bytes = 65_536
    # Of a WebSocket, which is also given up when it answers no ping.
    unread_stream_seconds = 45.0
    # How long a client may go on sending what nobody wants any more: in all, and without a pause.
    unwanted_seconds = 60.0
    unwanted_pause_seconds = 10.0
    # One timer for each connection looks at all of its limits: none costs anything with each read.
    look_seconds = 2.0

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.max_connections = app_state.get(MAX_CONNECTIONS, self.max_connections)
        self._owners = owners_of(server_state)
        self.owner: str | None = None
        self._door = _GracefulTransport(self)
        self._timer: Any = None
        # How long the connection is open, as its timer counts: while the whole process stands still, no
        # client's time runs.
        self._now = self._heard = 0.0
        self._has_spoken = self._is_spare = self._is_deaf = False
        self._parting_since: float | None = None
        # The head that is being read.
        self._in_head = self._in_body = self._got_on = False
        self._head_since: float | None = None
        self._head_bytes = self._field_bytes = self._fields = 0
        # The body, and what came around it.
        self._body_bytes = self._body_bytes_before = self._framing_bytes = 0
        # What a Content-Length says, and how much of it has still to come past the parser.
        self._announced_bytes: int | None = None
        self._missing_bytes = 0
        self._answered_at: float | None = None
        self.written_bytes = 0
        self._unread_bytes = self._read_bytes = 0
        self._unread_since: float | None = None

    @property
    def is_shutting_down(self) -> bool:
        """Whether nothing more will be said on this connection."""
        return self._parting_since is not None or self.transport.is_closing()

    @property
    def _is_idle(self) -> bool:
        """Whether no answer is due."""
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    @property
    def may_give_way(self) -> bool:
        """Whether nothing that is whole waits here for its answer."""
        cycle: Any = self.cycle
        return not self._is_spare and (self._is_idle or cycle.more_body)

    def belong_to(self, owner: str, *, is_limited: bool) -> bool:
        """Count the connection as this owner's; false if the owner has its share of all."""
        most = max(1, self.max_connections * 3 // 4) if is_limited else None
        return owner == self.owner or self._owners.give(self, owner, most)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.look_seconds, self._look)
        self._owners.add(self)
        beyond = len(self.connections) - self._owners.cut_count - self.max_connections
        if beyond > 0 and self._owners.make_room(self):
            beyond = 0
        self._is_spare = beyond > 0
        if beyond > self.spare_connections:
            # Not parted with in order, which takes time: there is no place for that.
            self._is_deaf = True
            count_refusal("overloaded")
            transport.write(refusal("overloaded", _TOO_MANY))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._timer.cancel()
        self._owners.forget(self)
        self._door.leave()
        scope: Any = getattr(self, "scope", None)
        if scope is not None:  # there is none before the first request
            scope.pop(CONNECTION, None)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """From here on the connection has another protocol, and that one's limits."""
        self._timer.cancel()
        self._owners.forget(self)
        super().handle_websocket_upgrade()
        opened: Any = self.transport.get_protocol()
        if not opened.handshake_initiated and not self.transport.is_closing():
            # The library that reads the handshake says nothing of what it cannot read, and waits for ever.
            count_refusal("invalid_request")
            self.transport.write(refusal("invalid_request", "this opens no WebSocket as RFC 6455 has it"))
            self.transport.close()
        self._unread_since = None
        self._timer = self.loop.call_later(self.look_seconds, self._look_at_stream)

    # Reading

    def data_received(self, data: bytes) -> None:
        """Read on, until something is too much."""
        self._heard, self._has_spoken = self._now, True
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if self._missing_bytes:
            data = self._take_body(data)
            if not data:
                return
        self._got_on, self._body_bytes_before = False, self._body_bytes
        try:
            self.parser.feed_data(data)
            self._count(len(data))
            if self._in_body and self._announced_bytes is not None:
                self._missing_bytes = self._announced_bytes - self._body_bytes
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            why = error.__context__
            if not isinstance(why, _RefusedError):
                why = _RefusedError("invalid_request", "this is not HTTP as RFC 9112 has it")
            self._refuse(why.code, why.detail)
        except _RefusedError as refused:
            self._refuse(refused.code, refused.detail)

    def _take_body(self, data: bytes) -> bytes:
        """Take what belongs to a body of a known length, past the parser, which would only copy it.

        Returns what follows the body. The parser still waits for the body's end: a new one reads on.
        """
        piece = data if len(data) <= self._missing_bytes else data[: self._missing_bytes]
        self._missing_bytes -= len(piece)
        self.on_body(piece)
        if not self._missing_bytes:
            self._renew_parser()
            self.on_message_complete()
        return data[len(piece) :]

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _count(self, size: int) -> None:
        """Count what was read towards a head, or around a body, without bringing either to its end."""
        if self._got_on:
            # Where in this read the next head began is unknown; its fields are counted one by one.
            self._head_bytes = 0
            self._head_since = self._heard if self._in_head else None
        elif self._in_body:
            self._framing_bytes += size - (self._body_bytes - self._body_bytes_before)
            most = self.free_framing_bytes + self.max_framing_ratio * self._body_bytes
            if self._framing_bytes > most:
                _refuse("invalid_request", "the chunks of the body are all frame and no content")
        else:
            if self._head_since is None:
                self._head_since = self._heard
            self._head_bytes += size
            self._check_head()

    def _check_head(self) -> None:
        if max(self._head_bytes, self._field_bytes) > self.max_head_bytes:
            _refuse("headers_too_large", f"a request's head may have {self.max_head_bytes} bytes")
        if self._fields > self.max_headers:
            _refuse("headers_too_large", f"a request may have {self.max_headers} header fields")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._unset_keepalive_if_required()
        self._in_head = True
        self._field_bytes = self._fields = 0
        super().on_message_begin()
        extended: Any = self.scope
        extended[CONNECTION] = self

    def on_url(self, url: bytes) -> None:
        """Some of the request's address came."""
        super().on_url(url)
        self._field_bytes += len(url)
        self._check_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field came, or a trailer, which nobody here wants: it must not pass for a header."""
        if not self._in_head:
            return
        self._fields += 1
        self._field_bytes += len(name) + len(value) + 4
        self._check_head()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: refuse what could be read in two ways, then begin to serve it."""
        self._in_head, self._in_body, self._got_on = False, True, True
        self._body_bytes = self._body_bytes_before = self._framing_bytes = 0
        self._answered_at = None
        self._check_framing()
        if len(self.pipeline) >= self.max_pipelined:
            _refuse("overloaded", "too many requests were sent ahead")
        if self._is_spare and not self.url.startswith(_ALWAYS_SERVED):
            _refuse("overloaded", _TOO_MANY)
        if self.parser.should_upgrade() and not self._should_upgrade():
            return  # see _stay
        if self.parser.should_upgrade() and not self._is_idle:
            _refuse("invalid_request", "a WebSocket cannot be opened before the answers that are due")
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.cycle.transport = self._door  # type: ignore[assignment]

    def _check_framing(self) -> None:
        version = self.parser.get_http_version()
        if version not in _VERSIONS or self.parser.get_method() == b"CONNECT":
            _refuse("invalid_request", "HTTP/1.1 is spoken here, and there are no tunnels")
        hosts = 0
        self._announced_bytes = None
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                self._announced_bytes = int(value)
            elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
                _refuse("invalid_request", "the only Transfer-Encoding taken is `chunked`, in HTTP/1.1")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            _refuse("invalid_request", "a request has one Host")

    def _should_upgrade(self) -> bool:
        """Whether a WebSocket is to be opened: asked for by a GET without a body (RFC 6455, 4.1)."""
        has_body = any(name in _OF_A_BODY for name, _ in self.headers)
        return super()._should_upgrade() and self.parser.get_method() == b"GET" and not has_body

    def _stay(self, rest: bytes) -> None:
        """Serve in HTTP/1.1 whoever offers another protocol, as Java's client does (RFC 9110, 7.8).

        The parser takes it that the connection is another protocol's after the head, and drops the body.
        """
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name not in _OF_AN_UPGRADE:
                head += [name, b": ", value, b"\r\n"]
            elif name == b"connection" and b"close" in value.lower():
                head.append(b"connection: close\r\n")
        self._renew_parser()
        self._in_body = False
        self.data_received(b"".join([*head, b"\r\n", rest]))

    def on_body(self, body: bytes) -> None:
        """Some of the body came."""
        self._body_bytes += len(body)
        cycle = self.cycle
        if cycle.response_complete or self.parser.should_upgrade():
            return
        # What the application takes before more comes is never copied; uvicorn would do it twice.
        unread: Any = cycle.body
        if isinstance(unread, bytearray) and unread:
            unread += body
        else:
            cycle.body = bytearray(unread) + body if unread else body  # type: ignore[assignment]
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_body, self._got_on = False, True
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self._is_idle and self.timeout_keep_alive_task is None:
            # It was answered before it was whole, and its last bytes were no next request.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # Answering

    def on_response_complete(self) -> None:
        """The answer was given, perhaps before the request was whole."""
        if self._in_body:
            self._answered_at = self._heard = self._now
        if self._head_since is not None:
            self._head_since = self._now  # its time was not running before: the answer was due
        if self._parting_since is None:
            super().on_response_complete()

    def part(self) -> None:
        """Close the connection so that the client hears the answer, whatever it still sends (RFC 9112, 9.6).

        A socket that is closed with something unread is reset, and a reset can destroy the answer.
        """
        if self.is_shutting_down:
            return
        if not (self._in_body or self._in_head or self._is_deaf):
            self.transport.close()
            return
        self._is_deaf = True
        self._parting_since = self._heard = self._now
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _refuse(self, code: str, detail: str) -> None:
        """Answer what never became a request, and hear no more; answers that are due go first."""
        count_refusal(code)
        self._is_deaf = True
        cycle = self.cycle
        if not self._is_idle:
            if cycle.response_started or self.pipeline or not cycle.more_body:
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(refusal(code, detail))
        self.part()

    # Time

    def _look(self) -> None:
        """Look, every two seconds, whether something takes too long."""
        now = self._now = self._now + self.look_seconds
        reason = self._too_long(now)
        if reason is not None:
            self.cut(reason)
            return
        self._timer = self.loop.call_later(self.look_seconds, self._look)
        if self._is_deaf or not self._is_idle:
            return
        if self._head_since is not None and now - self._head_since > self.head_seconds:
            if self._in_head:
                self._refuse("header_timeout", f"a request's head may take {self.head_seconds:g} seconds")
            else:
                self.transport.close()
        elif not self._has_spoken and now > self.silent_seconds:
            self.transport.close()

    def _look_at_stream(self) -> None:
        """Cut a WebSocket whose client does not read: its library would wait for that even to close it."""
        now = self._now = self._now + self.look_seconds
        if self._is_unread(now, self.unread_stream_seconds, is_stream=True):
            self.cut("answer_not_read")
        elif self._unread_bytes or not self.transport.is_closing():
            self._timer = self.loop.call_later(self.look_seconds, self._look_at_stream)

    def _is_unread(self, now: float, max_seconds: float, *, is_stream: bool = False) -> bool:
        """Whether what we wrote lies there for so long, and hardly any of it goes."""
        unread = self.transport.get_write_buffer_size()
        read = self.written_bytes - unread
        # On a stream another protocol writes, so that only what is left of the buffer tells of progress.
        progress = self._unread_bytes - unread if is_stream else read - self._read_bytes
        goes_on = progress >= (1 if is_stream else self.min_read_bytes)
        if unread == 0:
            self._unread_since = None
        elif self._unread_since is None or goes_on:
            self._unread_since, self._read_bytes = now, read
        self._unread_bytes = unread
        return self._unread_since is not None and now - self._unread_since > max_seconds

    def cut_unread(self) -> None:
        """Cut a client that reads too slowly, if it has something to read; others wait for the memory."""
        if self.transport.get_write_buffer_size():
            self.cut("answer_not_read")

    def cut(self, reason: str) -> None:
        """Cut the connection."""
        CUT.labels(reason).inc()
        self.transport.abort()

    def _too_long(self, now: float) -> str | None:
        """Return why the connection is to be cut, if it is."""
        if self._is_unread(now, self.unread_seconds):
            return "answer_not_read"
        since = self._parting_since
        if since is None and self._in_body:
            since = self._answered_at
        if since is None:
            return None
        is_over = now - since > self.unwanted_seconds or now - self._heard > self.unwanted_pause_seconds
        return "went_on_sending" if is_over else None


def _refuse(code: str, detail: str) -> NoReturn:
    raise _RefusedError(code, detail)
