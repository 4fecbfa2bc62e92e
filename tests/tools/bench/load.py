"""Sends requests over kept connections as fast as they are answered, or at a rate: a process of its own.

Speaks just enough HTTP/1.1 to cost next to nothing: what is measured shares the machine with it.
"""

import asyncio
import hashlib
import hmac
import sys
from collections.abc import Callable
from time import monotonic, time
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

_UNFINISHED_SECONDS = 20.0


class Load(Struct, kw_only=True):
    """What is to be sent; `paths` are shared out among the connections, `{n}` in one counts up."""

    port: int
    paths: list[str]
    method: str = "PUT"
    headers: dict[str, str] = {}
    body_bytes: int = 0
    bodies: list[str] = []
    """Sent one after the other instead of `body_bytes`; when all are sent, it is over."""
    secret: str = ""
    """Signs each body as EkaScribe does, if there is one."""
    connections: int = 16
    warm_seconds: float = 1.0
    seconds: float = 4.0
    rate: float = 0.0
    """Requests a second in all; 0: as many as are answered."""


class Loaded(Struct, kw_only=True):
    """What came back, of the time after the warming up."""

    answered: int
    seconds: float
    statuses: dict[int, int]
    latencies_ms: list[float]
    """The 50th, 95th and 99th percentile, from when a request was due to be sent."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


class _Run:
    """Everything that the connections share."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.took: list[float] = []
        self.statuses: dict[int, int] = {}
        self.first = self.last = 0.0
        self.count_from = self.stop_at = 0.0
        self.interval = load.connections / load.rate if load.rate else 0.0
        self._bodies = iter(load.bodies)
        self._body = bytes(range(256)) * (load.body_bytes // 256) + bytes(load.body_bytes % 256)

    def is_over(self, now: float) -> bool:
        return now >= self.stop_at

    def count(self, status: int, sent: float) -> None:
        now = monotonic()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if now >= self.count_from and now < self.stop_at:
            self.took.append(now - sent)
            self.last = now

    def maker(self, number: int) -> Callable[[], tuple[bytes, bytes] | None]:
        """Return what makes the head and the body of a connection's next request; None: there is none."""
        load = self.load
        lines = [f"{name}: {value}" for name, value in load.headers.items()]
        path = load.paths[number % len(load.paths)]
        counted = -1 - number // len(load.paths)
        step = -(-load.connections // len(load.paths))

        def make() -> tuple[bytes, bytes] | None:
            nonlocal counted
            counted += step
            body, signature = self._body, ""
            if load.bodies:
                text = next(self._bodies, None)
                if text is None:
                    return None
                body = text.encode()
            if load.secret:
                at = int(time())
                digest = hmac.new(load.secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
                signature = f"Eka-Webhook-Signature: t={at},v1={digest.hexdigest()}\r\n"
            target = path.replace("{n}", str(counted + 1))
            head = f"{load.method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{signature}" + "".join(
                f"{line}\r\n" for line in lines
            )
            return f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body

        return make


class _Connection(asyncio.Protocol):
    """One kept connection: a request, its answer, the next one."""

    def __init__(self, run: _Run, number: int) -> None:
        self._run = run
        self._make = run.maker(number)
        self._offset = run.interval * number / run.load.connections
        self._buffer = b""
        self._due = self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def begin(self) -> None:
        self._due = monotonic() + self._offset
        self._next()

    def _next(self) -> None:
        now = monotonic()
        if self._run.is_over(now):
            self._end()
        elif self._run.interval and self._due > now:
            asyncio.get_running_loop().call_later(self._due - now, self._send)
        else:
            self._send()

    def _send(self) -> None:
        made = self._make()
        if made is None:
            self._end()
            return
        self._sent = self._due if self._run.interval else monotonic()
        self._due += self._run.interval
        head, body = made
        if len(body) < 4096:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(self._buffer) < end + 4 + int(length or 0):
            return
        self._buffer = b""
        self._run.count(int(head[9:12]), self._sent)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the connection was closed"))

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


async def run(load: Load) -> Loaded:
    """Send, and say what came back."""
    state = _Run(load)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda n=number: _Connection(state, n), "127.0.0.1", load.port))[1]
        for number in range(load.connections)
    ]
    state.count_from = monotonic() + load.warm_seconds
    state.stop_at = state.count_from + load.seconds
    for connection in connections:
        connection.begin()
    async with asyncio.timeout(load.warm_seconds + load.seconds + _UNFINISHED_SECONDS):
        await asyncio.gather(*(connection.done for connection in connections))
    took = sorted(state.took)
    return Loaded(
        answered=len(took),
        seconds=min(state.last, state.stop_at) - state.count_from if load.bodies else load.seconds,
        statuses=state.statuses,
        latencies_ms=[round(took[int(len(took) * share)] * 1000, 2) for share in (0.5, 0.95, 0.99)]
        if took
        else [],
    )


def main() -> None:
    """Read a Load from standard input, write a Loaded to standard output."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(load))))


if __name__ == "__main__":
    main()
