"""How the tests of the doors ask: problems checked as a whole, raw sockets, signatures of the vendor."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.support.bridge import WEBHOOK_SECRET, Bridge

NUL = "%00"
PROBLEM = "application/problem+json"
_SECONDS = 8.0


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this problem, whole, and return it."""
    assert answer.status_code == status, f"{answer.status_code} instead of {status}: {answer.text[:600]}"
    assert answer.headers["content-type"] == PROBLEM
    found: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(found), found
    assert found["code"] == code, found
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    assert found["type"] == f"urn:ekabridge:error:{found['code']}"
    assert found["request_id"] == answer.headers["x-request-id"] != ""
    return found


def invalid(answer: httpx2.Response, *fields: str) -> dict[str, Any]:
    """Check that a request was refused for its form, and that each of these fields is named."""
    found = problem(answer, 400, "invalid_request")
    if fields:
        named = {error["field"] for error in found["errors"]}
        assert set(fields) <= named, f"{fields} not among {named}"
        assert all(error["message"] for error in found["errors"])
    return found


async def key_of(house: Bridge) -> str:
    """Return the key that `api` sends."""
    return house.api.headers["authorization"].removeprefix("Bearer ")


async def clear_faults(house: Bridge) -> None:
    """Let the vendor behave again."""
    (await house.vendor.delete("/_control/faults")).raise_for_status()


async def rows_of(house: Bridge) -> list[Any]:
    """Return the sessions of the house's tenant as they stand in the database."""
    return await house.database.fetch(
        "SELECT * FROM sessions WHERE tenant_id = $1 ORDER BY created_at", house.tenant_id
    )


async def chunks_of(house: Bridge, session_id: str) -> list[Any]:
    """Return the chunk rows of a session."""
    return await house.database.fetch(
        "SELECT * FROM chunks WHERE session_id = $1 ORDER BY sequence", session_id
    )


async def expire(house: Bridge, session_id: str) -> None:
    """Let a session's hour be over."""
    await house.database.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = $1", session_id
    )


async def call_arrived(house: Bridge, path_regex: str, method: str | None = None, count: int = 1) -> None:
    """Wait until the vendor got so many calls."""
    deadline = time.monotonic() + _SECONDS
    while await house.calls(path_regex, method) < count:
        assert time.monotonic() < deadline, f"the vendor never got {path_regex}"
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = _SECONDS) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)


@dataclass
class RawAnswer:
    """An HTTP answer read from a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode its body."""
        return json.loads(self.body)


class Wire:
    """A client that may break every rule of HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send bytes; a server that hung up does not matter here."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()

    async def answer(self) -> RawAnswer:
        """Read one whole answer."""
        async with asyncio.timeout(_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            status = int(first.split(" ")[1])
            if status == 100:
                return await self.answer()
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines if line)
            }
            if "content-length" in headers:
                body = await self._reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = await self._chunked()
            else:
                body = await self._reader.read()
            return RawAnswer(status, headers, body)

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()
        return body

    async def closed(self) -> bytes:
        """Read until the server closes; return what came."""
        async with asyncio.timeout(_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def finish_sending(self) -> None:
        """Close our half only."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Vanish with a TCP reset."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def wire(url: str, *, receive_bytes: int | None = None) -> AsyncIterator[Wire]:
    """Open a raw connection to a server; with `receive_bytes` the system takes little that nobody reads."""
    parts = urlsplit(url)
    raw = socket.socket()
    raw.setblocking(False)
    if receive_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
    limit = receive_bytes or 65_536
    opened = Wire(*await asyncio.open_connection(sock=raw, limit=limit))
    try:
        yield opened
    finally:
        await opened.close()


def request_head(house: Bridge, method: str, path: str, **headers: str) -> bytes:
    """Write a request's head with the house's key; underscores in names stand for hyphens."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: test",
        f"Authorization: {house.api.headers['authorization']}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk_head(house: Bridge, session_id: str, sequence: int | str = 0, **headers: str) -> bytes:
    """Write the head of an audio upload."""
    path = f"/v1/sessions/{session_id}/audio/{sequence}"
    return request_head(house, "PUT", path, **({"Content_Type": "audio/wav"} | headers))


def signature(
    body: bytes, *, secret: str = WEBHOOK_SECRET, at: int | None = None, signed: bytes | None = None
) -> str:
    """Sign a body as the vendor does; `signed` are the bytes that are hashed, by default the body."""
    moment = int(time.time()) if at is None else at
    content = body if signed is None else signed
    return f"t={moment},v1={mac(content, secret, moment)}"


def mac(content: bytes, secret: str, at: int) -> str:
    """Compute one signature."""
    return hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()


async def hook(
    house: Bridge, event: Any, *, header: str | None = None, name: str = "Eka-Webhook-Signature"
) -> httpx2.Response:
    """Send a webhook: an event, or raw bytes, signed unless a header is given ("" sends none)."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    value = signature(body) if header is None else header
    headers = {"content-type": "application/json"} | ({name: value} if value else {})
    async with httpx2.AsyncClient(base_url=house.url, trust_env=False, verify=False, timeout=20) as client:
        return await client.post("/webhooks/eka", content=body, headers=headers)


def v2_event(session_id: str, event: str = "v2rx.completed") -> dict[str, Any]:
    """Write an event in the v2 shape."""
    return {"event": event, "data": {"transaction_id": session_id, "status": "completed"}, "timestamp": "x"}


class DatabaseGate:
    """A TCP door before PostgreSQL that can be shut: the database is then away, as in a failover."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where the database is, through the door."""
        target = self._target
        user = target.username or "postgres"
        secret = f":{target.password}" if target.password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}{target.path}?sslmode=disable"

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Refuse new connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = re.search(r"host=([^&]+)", self._target.query)
        if folder and not self._target.hostname:
            port = re.search(r"port=(\d+)", self._target.query)
            path = f"{folder.group(1).replace('%2F', '/')}/.s.PGSQL.{port.group(1) if port else 5432}"
            return await asyncio.open_unix_connection(path)
        return await asyncio.open_connection(self._target.hostname, self._target.port or 5432)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await self._connect()
        self._open |= {writer, inner_writer}
        try:
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
        finally:
            self._open -= {writer, inner_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()
