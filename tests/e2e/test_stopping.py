"""How each process stops: nobody's call is cut, nothing stays leased, the status is 0, whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import psutil
import pytest
import uvicorn
from websockets.asyncio.client import connect

from service.app import create_app
from service.http_server.server import CONNECTION_OPTIONS, Server, listen
from tests.support.bridge import make_settings
from tests.support.rig import Rig, Running, dictate, open_rig, until

# The shortest stop in which everything still has its turn: work is given up after 3 of them.
SOON = {"shutdown_seconds": "4"}
REQUEST = b"GET /health/ready HTTP/1.1\r\nHost: pod\r\n\r\n"
CREATE = "/voice/v1/sessions$"
SPOKEN = {"templates": ["eka_emr_template"], "upload_type": "chunked", "communication_protocol": "http"}


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


class Line:
    """A connection to a server that can go dead: it stays open, and nothing comes through any more."""

    def __init__(self, host: str, port: int | None) -> None:
        self._to = (host, port)
        self._alive = asyncio.Event()
        self._alive.set()
        self.port = 0

    def cut(self) -> None:
        """From now on nothing comes through."""
        self._alive.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what one client and the server say."""
        host, port = self._to
        opened = await (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.5432")
            if port is None
            else asyncio.open_connection(host, port)
        )
        try:
            await asyncio.gather(self._pass(reader, opened[1]), self._pass(opened[0], writer))
        finally:
            for each in (opened[1], writer):
                each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._alive.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def line_to(url: str) -> AsyncIterator[tuple[Line, str]]:
    """A line to the server of a URL, and the URL that goes through it."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    line = Line(folder[0], None) if folder else Line(parts.hostname or "", parts.port)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(line.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1")
    line.port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@127.0.0.1:{line.port}" if user else f"127.0.0.1:{line.port}"
    try:
        yield line, parts._replace(netloc=netloc, query="").geturl()
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def port_of(service: Running) -> int:
    return int(service.url.rpartition(":")[2])


async def is_refused(service: Running) -> bool:
    """Whether nobody listens there any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(service))
    except OSError:
        return True
    writer.close()
    return False


async def is_asked(rig: Rig, session_id: str) -> bool:
    """Whether the vendor was asked for a session, even if it has not answered."""
    wanted = {"method": "GET", "session_id": session_id}
    return (await rig.vendor.get("/_control/calls/count", params=wanted)).json()["count"] > 0


async def has_created(rig: Rig) -> bool:
    """Whether the vendor has made a session, even if it has not said so."""
    return bool((await rig.vendor.get("/_control/sessions")).json())


def is_told_to_repeat(answer: httpx2.Response) -> bool:
    return answer.status_code == 503 and int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_kept_connection_is_parted_with_in_an_answer(rig: Rig, workers: int) -> None:
    service = await rig.serve(workers)
    api = await rig.client(service)
    await rig.fault(CREATE, method="POST", mode="hang", when="after")
    creating = asyncio.create_task(api.post("/v1/sessions", json={}))
    await until(lambda: has_created(rig))
    idle, idle_writer = await asyncio.open_connection("127.0.0.1", port_of(service))
    async with httpx2.AsyncClient(base_url=service.url, trust_env=False) as kept:
        assert "connection" not in (await kept.get("/health/live")).headers
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGTERM)
        while "connection" not in (await kept.get("/health/live")).headers:
            pass
    await until(lambda: is_refused(service))
    assert service.process.returncode is None  # what is in hand is waited for
    await rig.vendor.delete("/_control/faults")
    created = await creating
    assert (created.status_code, created.headers["connection"]) == (201, "close")
    assert await idle.read() == b""  # closed, not reset
    idle_writer.close()
    assert await service.process.wait() == 0


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def small_server(
    graceful_seconds: int, app: Any = hello
) -> AsyncIterator[tuple[Server, socket.socket]]:
    """A server of ours in this process, and where it listens; the test stops it."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, log_config=None, timeout_graceful_shutdown=graceful_seconds, **CONNECTION_OPTIONS
    )
    config.timeout_keep_alive = 75
    config.lifespan = "off" if app is hello else "on"
    config.load()
    server = Server(config, shutdown_seconds=60)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listening])
    yield server, listening


async def test_an_idle_connection_is_served_once_more(database_url: str, redis_url: str) -> None:
    """Its request was on its way when the process was told to stop, which is not ready any more."""
    app = create_app(make_settings(database_url, redis_url))
    async with small_server(400, app) as (server, listening):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" not in head
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        stopping = asyncio.create_task(server.shutdown([listening]))
        for _ in range(20):  # rounds of the loop in which it could close what is idle
            await asyncio.sleep(0)
        writer.write(REQUEST)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in answer
        assert b"not ready" in answer
        writer.close()
        await stopping


async def test_an_idle_connection_that_asks_nothing_more_is_closed() -> None:
    async with small_server(1) as (server, listening):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        await server.shutdown([listening])
        assert not server.server_state.connections
        assert await reader.read() == b""
        writer.close()


async def test_whoever_knocked_before_the_door_closed_is_served() -> None:
    """The system has taken the connection and the request, the process has not looked yet."""
    async with small_server(8) as (server, listening):
        with socket.create_connection(listening.getsockname(), timeout=5) as client:
            client.sendall(REQUEST)
            await server.shutdown([listening])
            answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


async def test_whoever_waits_at_sigterm_has_an_answer(rig: Rig) -> None:
    """Waits end at once, with an answer; a call that hangs at the vendor is told to come again, and can."""
    service = await rig.serve(**SOON)
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    hangs = {"mode": "hang", "when": "after", "times": None}
    await rig.fault(CREATE, method="POST", **hangs)
    await rig.fault("/audio/", method="POST", **hangs)
    keyed: dict[str, Any] = {"json": {"reference": "ENC-1"}, "headers": {"idempotency-key": "one"}}
    chunk: dict[str, Any] = {"content": b"sound" * 500_000, "headers": {"content-type": "audio/wav"}}
    path = f"/v1/sessions/{session_id}/audio/0"
    calls = [
        asyncio.create_task(call)
        for call in (
            api.post("/v1/sessions", **keyed),
            api.put(path, **chunk),
            api.post("/voice/v1/sessions", json=SPOKEN),
            api.get(f"/v1/sessions/{session_id}", params={"wait": 30}),
            api.get(f"/v1/sessions/{session_id}/events"),
        )
    ]

    async def are_all_at_the_vendor() -> bool:
        sessions = (await rig.vendor.get("/_control/sessions")).json()
        return len(sessions) == 3 and bool((await rig.seen(session_id))["files"])

    await until(are_all_at_the_vendor)
    assert await service.stop() == 0
    created, sent, as_medscribe_error, waited, followed = await asyncio.gather(*calls)
    for answer in (created, sent, as_medscribe_error):
        assert is_told_to_repeat(answer), answer.text
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
    assert created.json()["code"] == sent.json()["code"] == "shutting_down"
    assert as_medscribe_error.json()["error"]["code"] == "shutting_down"
    assert (waited.status_code, waited.json()["status"]) == (200, "created")
    assert (followed.status_code, "session.created" in followed.text) == (200, True)

    await rig.vendor.delete("/_control/faults")
    api = await rig.client(await rig.serve())
    again = await api.post("/v1/sessions", **keyed)
    assert again.status_code == 201, again.text
    assert (await rig.seen(again.json()["id"]))["creates"] == 1
    assert (await api.put(path, **chunk)).status_code == 200


async def test_a_stream_that_is_opened_while_the_process_stops_is_told_so(rig: Rig) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    session = (await api.post("/v1/sessions", json={"upload": "stream"})).json()
    address = urlsplit(session["stream_url"])._replace(netloc=urlsplit(service.url).netloc).geturl()
    early = await asyncio.open_connection("127.0.0.1", port_of(service))
    service.process.send_signal(signal.SIGTERM)
    await until(lambda: is_refused(service))
    async with connect(address, sock=early[1].get_extra_info("socket").dup(), proxy=None) as stream:
        early[1].transport.pause_reading()
        await stream.wait_closed()
        assert stream.close_code == 1012
        assert "after frame 0" in (stream.close_reason or "")
    early[1].close()
    assert await service.process.wait() == 0


async def test_whatever_hangs_both_processes_end(rig: Rig, database_url: str, redis_url: str) -> None:
    """PostgreSQL and Redis go dead under a call, a job and two sweeps: the call has an answer, both end."""
    async with line_to(database_url) as (database, through), line_to(redis_url) as (redis, to_redis):
        dead: dict[str, str] = {"database_url": through, "redis_url": to_redis, **SOON}
        service, worker = await asyncio.gather(rig.serve(**dead), rig.worker(**dead))
        api = await rig.client(service)
        await api.get("/v1/sessions")
        database.cut()
        redis.cut()
        asked = asyncio.create_task(api.get("/v1/sessions"))
        assert await asyncio.gather(service.stop(), worker.stop()) == [0, 0]
        answer = await asked
        assert is_told_to_repeat(answer), answer.text


async def test_a_worker_leaves_what_it_cannot_finish_to_the_next_at_once(rig: Rig) -> None:
    slow = {"forward_timeout_seconds": "100"}
    service, worker = await asyncio.gather(rig.serve(), rig.worker(**slow, **SOON))
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post("/_control/behaviour", json={"sequence": [{"delay_seconds": 60}]})
    sent = await dictate(api)
    await rig.received(1)
    await rig.fault("/sessions/ses_[^/]*$", method="GET", mode="hang", times=1)
    asked = await dictate(api)
    await until(lambda: is_asked(rig, asked))
    assert await worker.stop() == 0
    # Neither has to wait for the other worker's leases, of 45 and of 105 seconds.
    await rig.worker(**slow)
    received = await rig.received(3)
    assert [entry["body"]["data"]["session_id"] for entry in received].count(sent) == 2
    assert received[0]["headers"]["webhook-id"] in {e["headers"]["webhook-id"] for e in received[1:]}
    assert (await rig.seen(asked))["get_calls"]["eka_emr_template"] <= 2


async def test_a_worker_that_stops_is_not_ready_and_still_shows_its_figures(rig: Rig) -> None:
    service, worker = await asyncio.gather(rig.serve(), rig.worker(forward_timeout_seconds="100"))
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post("/_control/behaviour", json={"sequence": [{"delay_seconds": 60}]})
    await dictate(api)
    await rig.received(1)
    worker.process.send_signal(signal.SIGTERM)

    async with httpx2.AsyncClient(base_url=worker.url, trust_env=False) as http:

        async def is_not_ready() -> bool:
            return (await http.get("/health/ready")).status_code == 503

        await until(is_not_ready)
        assert (await http.get("/metrics")).status_code == 200
    await worker.kill()


async def test_the_processes_of_a_service_do_not_outlive_it(rig: Rig) -> None:
    service = await rig.serve(workers=2, **SOON)
    family = psutil.Process(service.process.pid).children(recursive=True)
    assert len(family) >= 2
    await service.kill()
    await until(lambda: is_refused(service))

    async def are_gone() -> bool:
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)

    await until(are_gone)


async def test_a_second_interrupt_ends_the_process_at_once(rig: Rig) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.fault(CREATE, method="POST", mode="hang", when="after")
    creating = asyncio.create_task(api.post("/v1/sessions", json={}))
    await until(lambda: has_created(rig))

    async def is_interrupted() -> bool:
        with contextlib.suppress(ProcessLookupError):
            service.process.send_signal(signal.SIGINT)
        return service.process.returncode is not None

    await until(is_interrupted, 15)
    assert service.process.returncode == 128 + signal.SIGINT
    with pytest.raises(httpx2.HTTPError):
        await creating
