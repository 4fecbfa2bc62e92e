"""TCP in between: what our processes say to PostgreSQL and Redis can be named, held up, slowed and cut."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

from service.store.queries import queries
from tests.tools.chaos.points import Watch

_NAMES = {statement: name for name, statement in queries().items()}
_WRITES = re.compile(r"\bINSERT INTO\b|\bDELETE FROM\b|(?<!FOR )(?<!KEY )(?<!DO )\bUPDATE\s+\w")
_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
Open = Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Proxy:
    """Listens for one process and passes bytes on; `passing` cleared lets them wait."""

    def __init__(self, slot: str, watch: Watch, open_server: Open) -> None:
        self.slot = slot
        self.watch = watch
        self.passing = asyncio.Event()
        self.passing.set()
        self.port = 0
        self._open = open_server
        self._writers: set[asyncio.StreamWriter] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Break every connection, at both ends; returns how many ends there were."""
        number = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        return number

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        self.passing.set()
        self.cut()
        if self._links:
            await asyncio.wait(self._links, timeout=5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._links.add(task)
            task.add_done_callback(self._links.discard)
        ends = [writer]
        self._writers.add(writer)
        try:
            await self.passing.wait()
            server = await self._open()
            ends.append(server[1])
            self._writers.add(server[1])
            pumps = self.pumps(reader, writer, *server)
            tasks = [asyncio.ensure_future(pump) for pump in pumps]
            _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except _BROKEN:
            pass
        finally:
            for each in ends:
                self._writers.discard(each)
                each.transport.abort()

    def pumps(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> list[Coroutine[Any, Any, None]]:
        """What runs for one connection, until one of them ends."""
        return [self._pass(client, to_server, watched=True), self._pass(server, to_client, watched=False)]

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool
    ) -> None:
        """Pass Redis's bytes on; an entry in a sorted set is a nudge."""
        while data := await reader.read(65536):
            await self.passing.wait()
            step = "redis: nudge" if watched and b"ZADD" in data else None
            if self.watch.passes(self.slot, step, "before"):
                return
            writer.write(data)
            await writer.drain()
            if self.watch.passes(self.slot, step, "after"):
                return


class DatabaseProxy(Proxy):
    """Follows PostgreSQL's protocol just enough to name each statement; may delay what commits."""

    commit_delay_seconds = 0.0

    def pumps(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> list[Coroutine[Any, Any, None]]:
        """What runs for one connection, until one of them ends."""
        link = _DatabaseLink(self)
        return [link.to_server(client, to_client, to_server), link.to_client(server, to_client)]


class _DatabaseLink:
    """One connection: which statement runs, and whether a transaction is open."""

    def __init__(self, proxy: DatabaseProxy) -> None:
        self._proxy = proxy
        self._statements: dict[bytes, str] = {}
        self._bound = ""
        self._running: str | None = None  # the SQL whose answer is awaited
        self._in_transaction = False
        self._last_write: str | None = None

    async def to_server(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await client.readexactly(4)
            body = await client.readexactly(int.from_bytes(head) - 4)
            code = int.from_bytes(body[:4])
            if code not in {_SSL_REQUEST, _GSS_REQUEST}:
                break
            to_client.write(b"N")
        server.write(head + body)
        if code == _CANCEL_REQUEST:
            await server.drain()
            return
        batch, executed = b"", None
        while True:
            head = await client.readexactly(5)
            body = await client.readexactly(int.from_bytes(head[1:]) - 4)
            batch += head + body
            executed = self._note(head[:1], body) or executed
            if head[:1] in b"PBDEC":
                continue
            await self._proxy.passing.wait()
            if executed is not None:
                self._running = executed
                if self._is_commit(executed) and self._proxy.commit_delay_seconds:
                    await asyncio.sleep(self._proxy.commit_delay_seconds)
                if self._passes("before"):
                    return
            server.write(batch)
            await server.drain()
            batch, executed = b"", None

    def _note(self, kind: bytes, body: bytes) -> str | None:
        """Follow one message; returns the SQL that it lets run."""
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text.decode()
        elif kind == b"B":
            self._bound = self._statements.get(body.split(b"\0", 2)[1], "")
        elif kind == b"E":
            return self._bound
        elif kind == b"Q":
            return body.rstrip(b"\0").decode()
        return None

    async def to_client(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        held, rows, failed = b"", 0, False
        while True:
            head = await server.readexactly(5)
            body = await server.readexactly(int.from_bytes(head[1:]) - 4)
            await self._proxy.passing.wait()
            held += head + body
            if head[:1] == b"C":
                last = body.rstrip(b"\0").rsplit(b" ", 1)[-1]
                rows = int(last) if last.isdigit() else 1
            elif head[:1] == b"s":  # asked for one row only, and got it
                rows = 1
            elif head[:1] == b"E":
                failed = True
            elif head[:1] == b"Z":
                if self._running is not None:
                    took_effect = not failed and rows > 0
                    if took_effect and self._passes("after"):
                        return
                    self._finished(took_effect=took_effect)
                rows, failed = 0, False
            if head[:1] == b"Z" or self._running is None or len(held) > 65536:
                client.write(held)
                held = b""
                await client.drain()

    def _passes(self, when: Any) -> bool:
        step, inside = self._step()
        return self._proxy.watch.passes(self._proxy.slot, step, when, in_transaction=inside)

    def _step(self) -> tuple[str | None, bool]:
        """Name what runs, if it can have an effect, and whether a commit is still to come."""
        text = self._running or ""
        if self._is_commit(text):
            return (f"commit after {self._last_write}" if self._last_write else None), False
        if _WRITES.search(text) is None:
            return None, False
        return _NAMES.get(text.strip(), text.split("\n", 1)[0][:60]), self._in_transaction

    def _finished(self, *, took_effect: bool) -> None:
        text = (self._running or "").strip()
        if text.startswith("BEGIN"):
            self._in_transaction, self._last_write = True, None
        elif self._is_commit(text) or text.startswith("ROLLBACK"):
            self._in_transaction, self._last_write = False, None
        elif self._in_transaction and took_effect:
            self._last_write = self._step()[0] or self._last_write
        self._running = None

    @staticmethod
    def _is_commit(text: str) -> bool:
        return text.startswith("COMMIT")


async def open_unix(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to PostgreSQL's socket."""
    return await asyncio.open_unix_connection(path)


async def open_port(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to a port of this machine."""
    return await asyncio.open_connection("127.0.0.1", port)
