"""Doors before the stand-ins: each call is named as a step of the process that makes it, and written down."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.sandbox.vendor.faults import FaultBook, FaultPlayer, abort_connection
from tests.tools.chaos.points import Watch

_VENDOR_STEPS = [
    ("POST", re.compile(r"/account/login$"), "vendor: login"),
    ("POST", re.compile(r"/refresh-token$"), "vendor: refresh"),
    ("POST", re.compile(r"/sessions$"), "vendor: create"),
    ("POST", re.compile(r"/audio/"), "vendor: upload"),
    ("POST", re.compile(r"/end$"), "vendor: end"),
    ("POST", re.compile(r"/process/template/"), "vendor: process"),
    ("PATCH", re.compile(r"/sessions/[^/]+$"), "vendor: change"),
    ("GET", re.compile(r"/sessions/[^/]+$"), "vendor: get"),
]


@dataclass
class Receipt:
    """One delivery as it came to the EMR: its bytes, and whether the process was told 2xx."""

    at: float
    slot: str | None
    headers: dict[str, str]
    body: bytes = b""
    status: int | None = None
    is_told: bool = False

    @property
    def webhook_id(self) -> str:
        """The delivery's id, the same for every attempt."""
        return self.headers.get("webhook-id", "")


class Door:
    """ASGI in front of a stand-in: kills at armed points, before the call or after its effect."""

    def __init__(self, app: Any, watch: Watch, caller: Callable[[int], str | None]) -> None:
        self.app = app
        self.watch = watch
        self.caller = caller

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        step = self.step(scope) if scope["type"] == "http" else None
        if step is None:
            await self.app(scope, receive, send)
            return
        slot = self.caller(scope["client"][1]) or ""
        scope["state"] = {**(scope.get("state") or {}), "chaos_slot": slot}
        if self.watch.passes(slot, step, "before"):
            await abort_connection(receive)
            return
        await self.answer(step, slot, scope, receive, send)

    def step(self, scope: Any) -> str | None:
        """Name the call; None for one that nobody watches."""
        for method, path, name in _VENDOR_STEPS:
            if scope["method"] == method and path.search(scope["path"]):
                return name
        return None

    async def answer(self, step: str, slot: str, scope: Any, receive: Any, send: Any) -> None:
        """Let the stand-in work; its answer is held back while a point after it is armed."""
        held: list[Any] = []
        holds = self.watch.is_armed(slot, step, "after")
        status = 0

        async def hold(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if holds:
                held.append(message)
            else:
                await send(message)

        await self.app(scope, receive, hold)
        # A call that was refused, such as one with an old token, had no effect to be killed after.
        if 200 <= status < 300 and self.watch.passes(slot, step, "after"):
            await abort_connection(receive)
            return
        for message in held:
            await send(message)


class EmrDoor(Door):
    """The same before the EMR, with the faults that the stand-in vendor knows, and with receipts."""

    def __init__(self, app: Any, watch: Watch, caller: Callable[[int], str | None]) -> None:
        super().__init__(app, watch, caller)
        self.book = FaultBook()
        self.receipts: list[Receipt] = []
        self._emr = app
        self.app = self._receive

    def step(self, scope: Any) -> str | None:
        """Name the call."""
        is_delivery = scope["method"] == "POST" and scope["path"].startswith("/hooks")
        return "emr: deliver" if is_delivery else None

    async def _receive(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/hooks"):
            await self._emr(scope, receive, send)
            return
        fault = self.book.pick(scope["method"], scope["path"], "")
        app = FaultPlayer(fault, self.book, self._record).play if fault else self._record

        async def watched_send(message: Any) -> None:
            await send(message)
            entry: Receipt | None = scope["state"].get("chaos_receipt")
            if entry is None:
                return
            if message["type"] == "http.response.start":
                entry.status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                entry.is_told = 200 <= (entry.status or 0) < 300

        await app(scope, receive, watched_send)

    async def _record(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()
        messages = []
        while True:
            message = await receive()
            messages.append(message)
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        entry = Receipt(time.time(), scope["state"].get("chaos_slot"), headers, bytes(body))
        self.receipts.append(entry)
        scope["state"]["chaos_receipt"] = entry
        waiting = iter(messages)

        async def again() -> Any:
            return next(waiting, None) or await receive()

        await self._emr(scope, again, send)


def release(book: FaultBook) -> None:
    """Cut the calls that hang now, without ending other faults."""
    book.released.set()
    book.released = asyncio.Event()
