"""Attacks a real process and writes what others notice of it into docs/capacity.md: `make attacks`.

Two attacks: of strangers whose connections drip, and of clients and an EkaScribe that together would fill the
memory. What is measured is what everybody else gets meanwhile, beside the same without the attack.
"""

import asyncio
import contextlib
import json
import platform
import random
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import uvloop

from service.bootstrap.container import open_stores
from service.sandbox.embedded.api import start_embedded
from service.store.migrate import migrate
from service.store.sessions import transcript_aad
from tests.support.bridge import add_tenant, make_settings
from tests.support.rig import Rig, Running, open_rig, until
from tests.tools.chaos.overload import REPORT, Caller, Tally, dictate, notify
from tests.tools.chaos.resident_memory import ResidentMemory

STRANGERS = 2000
DRIP_SECONDS = 1.0
CALM_SECONDS = 20.0
ATTACK_SECONDS = 60.0
PAUSE_SECONDS = 0.05
TIMES_LIMIT = 2.0
READERS, ENDLESS, UPLOADS = 150, 40, 100
TRANSCRIPT_BYTES = 8_000_000
READ_PAUSE_SECONDS = 0.1
UPLOAD_BYTES = 10_000_000
MEMORY_LIMIT_MB = 400

_HEAD = b"Host: test\r\nContent-Length: 60000\r\n"
# What strangers begin, and never end.
BEGINNINGS = (
    b"POST /connect-auth/v1/account/login HTTP/1.1\r\n" + _HEAD + b'\r\n{"client_id": "',
    b"POST /webhooks/eka HTTP/1.1\r\n" + _HEAD + b"\r\n{",
    b"POST /voice/v1/uploads/ses_0123456789abcdef HTTP/1.1\r\n"
    + _HEAD
    + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n",
    b"POST /v1/sessions HTTP/1.1\r\n" + _HEAD + b"Authorization: Bearer none\r\n\r\n{",
    b"POST /v1/sessions HTTP/1.1\r\nHost: test\r\nX-A: ",
)


@dataclass
class UnauthenticatedLimits:
    """Connections that drip; one that was closed is opened anew."""

    port: int
    opened: int = 0
    alive: int = 0
    answers: dict[str, int] = field(default_factory=dict)

    async def drip(self, beginning: bytes) -> None:
        """Be one stranger, for ever."""
        while True:
            await asyncio.sleep(random.random() * DRIP_SECONDS)
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.opened += 1
                self.alive += 1
                try:
                    await self._drip(reader, writer, beginning)
                finally:
                    self.alive -= 1
                    writer.transport.abort()

    async def _drip(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beginning: bytes
    ) -> None:
        writer.write(beginning)
        while not writer.is_closing():
            try:
                async with asyncio.timeout(DRIP_SECONDS):
                    said = await reader.read(4096)
            except TimeoutError:
                writer.write(b"a")
                continue
            if not said:
                return
            if said.startswith(b"HTTP/1.1 "):
                status = said[9:12].decode("latin-1")
                self.answers[status] = self.answers.get(status, 0) + 1


async def attack(port: int, count: int) -> None:
    """Be so many strangers until the standard input ends, then tell how it went."""
    strangers = UnauthenticatedLimits(port)
    tasks = [
        asyncio.create_task(strangers.drip(BEGINNINGS[number % len(BEGINNINGS)])) for number in range(count)
    ]
    await asyncio.to_thread(sys.stdin.read)
    told = {"alive": strangers.alive, "opened": strangers.opened, "answers": strangers.answers}
    sys.stdout.write(json.dumps(told))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def attacking(port: int, count: int) -> AsyncIterator[dict[str, Any]]:
    """Have a process of so many strangers while the block runs; what they tell is there afterwards."""
    told: dict[str, Any] = {}
    arguments = ("-m", "tests.tools.chaos.attacks", str(port), str(count))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    try:
        yield told
    finally:
        output, _ = await process.communicate(b"")
        told |= json.loads(output)


async def work(caller: Caller, key: str, seconds: float) -> None:
    """Do what a hospital does, one call after the other: dictate, and be told of results."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        await dictate(caller, key)
        await notify(caller)
        await asyncio.sleep(PAUSE_SECONDS)


def p99(tally: Tally) -> float:
    """Return the 99th percentile of what was taken, in seconds."""
    accepted = tally.accepted
    return accepted[int(len(accepted) * 0.99)] if accepted else float("inf")


async def strangers(service: Running, key: str, count: int, seconds: float) -> list[tuple[str, str, str]]:
    """Measure what a hospital notices of strangers."""
    port = urlsplit(service.url).port or 0
    calm, crowd = Caller(port, Tally()), Caller(port, Tally())
    await work(calm, key, min(seconds, CALM_SECONDS))
    async with attacking(port, count) as attack:
        await asyncio.sleep(2 * DRIP_SECONDS)
        busy = psutil.Process(service.process.pid)
        before = sum(busy.cpu_times()[:2])
        await work(crowd, key, seconds)
        used = (sum(busy.cpu_times()[:2]) - before) / seconds
    for caller in (calm, crowd):
        caller.close()
    faults = len(crowd.tally.refused) + sum(crowd.tally.others.values()) + crowd.tally.broken
    times = p99(crowd.tally) / p99(calm.tally)
    told = ", ".join(f"{status} {number:,}" for status, number in sorted(attack["answers"].items()))
    limit = f"{TIMES_LIMIT:g} times"
    return [
        (
            "slow connections of attackers at once; opened in all",
            f"{attack['alive']:,}; {attack['opened']:,}",
            "",
        ),
        ("answers to the attackers", told, ""),
        ("calls of a hospital meanwhile; refused or failed", f"{len(crowd.tally.accepted):,}; {faults}", "0"),
        ("their 99th percentile without the attack", f"{p99(calm.tally) * 1000:.0f} ms", ""),
        ("what the process needed of a core meanwhile, the hospital's calls included", f"{used:.0%}", ""),
        ("with it", f"{p99(crowd.tally) * 1000:.0f} ms, {times:.2f} times", limit),
    ]


class EndlessVendor:
    """Stands before EkaScribe: passes calls on, and answers some without end."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.is_endless = False
        self.endless = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._talk(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self.is_endless and b"/connect-auth/" not in head:
                self.endless += 1
                await _for_ever(writer, self.endless)
            inner_reader, inner_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
            # One call a connection: each is looked at.
            inner_writer.write(re.sub(rb"(?i)connection: keep-alive", b"Connection: close", head))
            try:
                await asyncio.gather(_pass(reader, inner_writer), _pass(inner_reader, writer))
            finally:
                inner_writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def _for_ever(writer: asyncio.StreamWriter, number: int) -> None:
    first, more = (
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[", b"[" * 16_384),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 500),
    )[number % 2]
    writer.write(first)
    while True:
        writer.write(more)
        await writer.drain()


async def fill(
    rig: Rig,
    service: Running,
    vendor: EndlessVendor,
    *,
    readers: int,
    endless: int,
    uploads: int,
    seconds: float = ATTACK_SECONDS / 2,
) -> tuple[float, ResidentMemory, dict[str, int]]:
    """Have readers that hardly read, answers without end, and uploads that stop before their end, at once."""
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    settings = make_settings(
        rig.environment["EKABRIDGE_DATABASE_URL"], rig.environment["EKABRIDGE_REDIS_URL"]
    )
    async with open_stores(settings) as stores:
        encrypted = stores.keyring.encrypt(b"a" * TRANSCRIPT_BYTES, transcript_aad(session_id))
        await stores.database.execute(
            "UPDATE sessions SET transcript_sealed = $2 WHERE id = $1", session_id, encrypted
        )
    memory = ResidentMemory(service, look_seconds=0.02)
    before, told = memory.now(), dict[str, int]()
    port = urlsplit(service.url).port or 0
    bearer = f"Host: test\r\nAuthorization: Bearer {rig.key}\r\n"

    async def read_slowly() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        try:
            writer.write(f"GET /v1/sessions/{session_id} HTTP/1.1\r\n{bearer}\r\n".encode())
            status = (await reader.read(16))[9:12].decode("latin-1")
            told[status] = told.get(status, 0) + 1
            while await reader.read(4096):  # noqa: ASYNC110 - it is slow on purpose
                await asyncio.sleep(READ_PAUSE_SECONDS)
        finally:
            writer.transport.abort()

    async def upload_halfway(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = f"PUT /v1/sessions/{session_id}/audio/{number} HTTP/1.1\r\n{bearer}"
            writer.write(f"{head}Content-Type: audio/wav\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n".encode())
            for _ in range(UPLOAD_BYTES // 100_000 - 1):
                writer.write(bytes(100_000))
                await writer.drain()
            await reader.read()
        finally:
            writer.transport.abort()

    async def create() -> None:
        answer = await api.post("/v1/sessions", json={})
        told[f"create {answer.status_code}"] = told.get(f"create {answer.status_code}", 0) + 1

    vendor.is_endless = True
    watching = asyncio.create_task(memory.watch())
    calls: list[Callable[[], Awaitable[None]]] = [read_slowly] * readers + [create] * endless
    tasks = [asyncio.create_task(_unbroken(call())) for call in calls]
    tasks += [asyncio.create_task(_unbroken(upload_halfway(number))) for number in range(uploads)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in (*tasks, watching):
        task.cancel()
    await asyncio.gather(*tasks, watching, return_exceptions=True)
    vendor.is_endless = False
    return before, memory, told


async def _unbroken(work: Awaitable[None]) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await work


async def measure(rig: Rig, key: str) -> tuple[list[tuple[str, str, str]], bool]:
    """Make both attacks; return the table's rows and whether the limits held."""
    service = await rig.serve(rate_limit_per_second="0")
    rows = await strangers(service, key, STRANGERS, ATTACK_SECONDS)
    await service.stop()
    vendor = await rig.stack.enter_async_context(EndlessVendor(rig.vendor_url))
    service = await rig.serve(eka_base_url=vendor.url, rate_limit_per_second="0")
    before, memory, told = await fill(rig, service, vendor, readers=READERS, endless=ENDLESS, uploads=UPLOADS)
    assert service.process.returncode is None

    async def works() -> bool:
        caller = Caller(urlsplit(service.url).port or 0, Tally())
        is_done = await dictate(caller, key)
        caller.close()
        return is_done

    await until(works)
    await service.stop()
    shown = ", ".join(f"{what} {number}" for what, number in sorted(told.items()))
    attack = f"{READERS} slow readers of {TRANSCRIPT_BYTES // 1_000_000} MB, {ENDLESS} calls that EkaScribe"
    attack += f" answers without end, {UPLOADS} uploads of {UPLOAD_BYTES // 1_000_000} MB, at once: answers"
    rows += [
        (attack, shown, ""),
        (
            "memory before, at the peak",
            f"{before:.0f}, {memory.peak:.0f} MB",
            f"{MEMORY_LIMIT_MB} MB",
        ),
    ]
    slower = float(rows[5][1].split(", ")[1].split(" ")[0])
    is_well = slower <= TIMES_LIMIT and memory.peak < MEMORY_LIMIT_MB and rows[2][1].endswith("; 0")
    return rows, is_well


async def main() -> int:
    """Measure, write the section, and return 1 if a limit is broken."""
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(start_embedded(temporary=True)).urls
        await migrate(urls.database_url)
        rig = await stack.enter_async_context(open_rig(urls.database_url, urls.redis_url))
        settings = make_settings(urls.database_url, urls.redis_url)
        _, key = await add_tenant(settings, "hospital", "emr")
        rows, is_well = await measure(rig, key)
    table = "\n".join(f"| {what} | {found} | {limit} |" for what, found, limit in rows)
    where = f"{platform.system()}, {psutil.cpu_count()} cores, Python {platform.python_version()}"
    verdict = "Every limit held." if is_well else "**A limit was broken.**"
    section = SECTION.format(date=f"{datetime.now(UTC):%Y-%m-%d}", where=where, table=table, verdict=verdict)
    page = await asyncio.to_thread(REPORT.read_text)
    kept = page.partition("\n## Attacks\n")[0].rstrip("\n")
    await asyncio.to_thread(REPORT.write_text, f"{kept}\n\n{section}")
    sys.stdout.write(section)
    return 0 if is_well else 1


SECTION = """## Attacks

Made by `make attacks` on {date}: {where}. The attackers run on the same machine as the service.
Attackers without a key send the beginnings of logins, webhooks, forms, calls and heads, then a byte a second,
and connect again when they are cut off. A hospital works meanwhile: dictations and webhooks, one call after
the other.

| what | measured | limit |
|---|---|---|
{table}

{verdict}
"""


if __name__ == "__main__":
    if sys.argv[1:]:
        uvloop.run(attack(*map(int, sys.argv[1:])))
    else:
        sys.exit(uvloop.run(main()))
