"""Faults: misbehaviour that a control call orders for matching calls, such as a reset or a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

_ABORT_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A misbehaviour for calls whose method and path match (`re.search` over path and over path?query).

    Played `times` times (None: for ever), after `skip` matching calls; waits `delay_seconds` first.
    `when` "after" does the real work before misbehaving: the call took effect, its answer is lost.
    Modes: "respond" answers `status`/`body` (neither given: only the delay), "reset" cuts the TCP connection,
    "hang" never answers, "drip" sends one byte every `drip_seconds`, "half_json" half of the answer.
    `read_body` false answers, or hangs, without reading the request's body.
    """

    path_regex: str
    method: str | None = None
    times: int | None = 1
    skip: int = 0
    mode: Literal["respond", "reset", "hang", "drip", "half_json"] = "respond"
    when: Literal["before", "after"] = "before"
    status: int | None = None
    headers: dict[str, str] = {}
    body: Any = None
    delay_seconds: float = 0.0
    drip_seconds: float = 0.2
    read_body: bool = True
    id: int = 0
    played: int = 0

    def matches(self, method: str, target: tuple[str, str]) -> bool:
        """Whether this fault is meant for the call, its counts aside."""
        if self.method is not None and self.method.upper() != method:
            return False
        return any(re.search(self.path_regex, text) for text in target)

    def only_delays(self) -> bool:
        """Whether the call is let through unchanged after `delay_seconds`."""
        silent = self.status is None and self.body is None
        return self.mode == "respond" and self.when == "before" and silent


@dataclass
class FaultBook:
    """The faults in force, oldest first; the first that matches is played."""

    faults: list[Fault] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force; raises `re.error` for a bad pattern."""
        re.compile(fault.path_regex)
        fault.id, fault.played = next(self._ids), 0
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """End all faults and let go of the calls that hang."""
        self.faults.clear()
        self.released.set()
        self.released = asyncio.Event()

    def pick(self, method: str, path: str, query: str) -> Fault | None:
        """Choose the fault to play for this call, counted as played."""
        for fault in self.faults:
            if fault.played == fault.times or not fault.matches(method, (path, f"{path}?{query}")):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.played += 1
            return fault
        return None


@dataclass
class _Answer:
    """A whole HTTP answer, caught or made up."""

    status: int = 503
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def catch(self, message: Message) -> None:
        """Stand in for ASGI `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name, value) for name, value in message["headers"] if name != b"content-length"]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def send_to(self, send: Send, *, drip_seconds: float = 0.0) -> None:
        """Send it, at once or byte by byte."""
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if drip_seconds:
            for position in range(len(self.body)):
                piece = self.body[position : position + 1]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(drip_seconds)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await send({"type": "http.response.body", "body": self.body, "more_body": False})


@dataclass
class FaultPlayer:
    """Plays one fault on one call."""

    fault: Fault
    book: FaultBook
    app: ASGIApp

    async def play(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Misbehave as the fault says, then return with the call finished."""
        fault = self.fault
        released = self.book.released
        await asyncio.sleep(fault.delay_seconds)
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._play_handshake(receive, send, scope, released)
        elif fault.only_delays():
            await self.app(scope, receive, send)
        else:
            answer = await self._find_answer(scope, receive)
            await self._deliver(answer, receive, send, released)

    async def _find_answer(self, scope: Scope, receive: Receive) -> _Answer:
        fault = self.fault
        made_up = _Answer(
            status=fault.status or (503 if fault.mode == "respond" else 200),
            headers=[(name.lower().encode(), value.encode()) for name, value in fault.headers.items()],
            body=fault.body.encode() if isinstance(fault.body, str) else json.dumps(fault.body).encode(),
        )
        if not any(name == b"content-type" for name, _ in made_up.headers):
            made_up.headers.append((b"content-type", b"application/json"))
        shows_answer = fault.mode in {"drip", "half_json"} and fault.body is None
        if fault.when == "after" or shows_answer:
            real = _Answer()
            await self.app(scope, receive, real.catch)
            return real if shows_answer else made_up
        if fault.read_body and fault.mode != "hang":
            await _drain(receive)
        return made_up

    async def _deliver(self, answer: _Answer, receive: Receive, send: Send, released: asyncio.Event) -> None:
        if self.fault.mode == "reset":
            await abort_connection(receive)
        elif self.fault.mode == "hang":
            await self._hang(receive, released)
        elif self.fault.mode == "drip":
            await answer.send_to(send, drip_seconds=self.fault.drip_seconds)
        else:
            if self.fault.mode == "half_json":
                answer.body = answer.body[: len(answer.body) // 2]
            await answer.send_to(send)

    async def _hang(self, receive: Receive, released: asyncio.Event) -> None:
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(released.wait())]
        if self.fault.read_body:
            waits.append(asyncio.ensure_future(_wait_for_disconnect(receive)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await abort_connection(receive)

    async def _play_handshake(
        self, receive: Receive, send: Send, scope: Scope, released: asyncio.Event
    ) -> None:
        fault = self.fault
        if fault.mode == "hang":
            await released.wait()
        if fault.mode in {"hang", "reset"}:
            await abort_connection(receive)
        elif fault.mode == "respond" and fault.status is not None:
            await receive()
            start: Any = {"type": "websocket.http.response.start", "status": fault.status, "headers": []}
            body: Any = {"type": "websocket.http.response.body", "body": b"", "more_body": False}
            await send(start)
            await send(body)
        else:
            await self.app(scope, receive, send)


async def abort_connection(receive: Receive) -> None:
    """Cut the TCP connection under an ASGI call with a reset (RST), then wait until the server noticed.

    Reaches uvicorn's transport through the call's own `receive`; `RuntimeError` on a server without one.
    """
    cut_connection(receive)
    await _wait_for_disconnect(receive)


def cut_connection(receive: Receive) -> None:
    """Cut the TCP connection under an ASGI call; `RuntimeError` on a server without a transport."""
    transport = find_transport(receive)
    if transport is None:
        raise RuntimeError("no transport behind this ASGI call; faults that cut it need uvicorn")
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT_ON_CLOSE)
    transport.abort()


def find_transport(receive: Any) -> Any:
    """Find the asyncio transport that `receive` reads from, through the wrappers that keep it; else None."""
    while receive is not None:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is not None:
            return transport
        receive = getattr(receive, "inner", None)
    return None


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body"):
            return


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] not in {"http.disconnect", "websocket.disconnect"}:
        pass
