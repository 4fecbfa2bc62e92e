"""A rolling restart of all processes under load: no EMR's call fails, nothing is lost, nothing done twice."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from service.sandbox.vendor.app import Endpoint
from tests.support.bridge import WEBHOOK_SECRET, free_port
from tests.support.rig import START_SECONDS, Rig, Running, open_rig, until

EMRS = 12
ROLLS = 2
# Between two calls of an EMR: its kept connection is idle when its process is told to stop.
PAUSE_SECONDS = 0.2


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


@dataclass
class Balancer:
    """One address for all pods, as a Kubernetes Service is; a connection goes to one that takes it."""

    pods: list[int] = field(default_factory=list)
    url: str = ""
    passing: set[asyncio.Task[None]] = field(default_factory=set)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.pods.append(self.pods.pop(0))
        for pod in tuple(self.pods):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", pod)
        raise ConnectionRefusedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        ways = ((reader, upstream[1]), (upstream[0], writer))
        try:
            await asyncio.gather(*(_pass(*way) for way in ways))
        finally:
            for each in (upstream[1], writer):
                each.close()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self.passing.add(task)
        task.add_done_callback(self.passing.discard)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what one side says, and how it ends: in order, or with a reset."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def balanced(rig: Rig) -> AsyncIterator[Balancer]:
    """A balancer without pods yet; the vendor's webhooks come through it, too."""
    balancer = Balancer()
    server = await asyncio.start_server(balancer.accept, "127.0.0.1")
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    rig.vendor_app.state.vendor.settings.webhook_endpoints = [
        Endpoint(url=f"{balancer.url}/webhooks/eka", secret=WEBHOOK_SECRET)
    ]
    try:
        yield balancer
    finally:
        server.close()
        for task in balancer.passing:
            task.cancel()
        await asyncio.gather(*balancer.passing, return_exceptions=True)


@dataclass
class Load:
    """EMRs that dictate without a pause, and what became of each call."""

    rig: Rig
    url: str
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    dictations: list[str] = field(default_factory=list)
    is_over: bool = False

    async def dictate(self) -> None:
        """One EMR: dictation after dictation, on connections that it keeps."""
        async with httpx2.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {self.rig.key}"},
            timeout=40,
            transport=httpx2.AsyncHTTPTransport(retries=0),
        ) as api:
            while not self.is_over and not self.failures:
                await self._dictate_once(api)

    async def _dictate_once(self, api: httpx2.AsyncClient) -> None:
        key = {"idempotency-key": secrets.token_hex(8)}
        created = await self._call(api, "POST", "/v1/sessions", json={}, headers=key)
        if created is None:
            return
        session_id = created.json()["id"]
        path = f"/v1/sessions/{session_id}"
        wav = {"content-type": "audio/wav"}
        for sequence in range(2):
            await self._call(api, "PUT", f"{path}/audio/{sequence}", content=b"sound" * 2000, headers=wav)
        if await self._call(api, "POST", f"{path}/end", json={"chunks": 2}) is not None:
            self.dictations.append(session_id)
        await self._call(api, "GET", path, params={"wait": 2})
        await self._call(api, "GET", "/v1/sessions", params={"limit": 5})

    async def _call(
        self, api: httpx2.AsyncClient, method: str, path: str, **request: Any
    ) -> httpx2.Response | None:
        """Make a call; made again only when it was told to, within the time that an EMR has."""
        for _ in range(10):
            try:
                answer = await api.request(method, path, **request)
            except httpx2.HTTPError as error:
                self.failures.append(f"{method} {path}: {type(error).__name__} {error}")
                return None
            self.answers[str(answer.status_code)] += 1
            if answer.is_success:
                await asyncio.sleep(PAUSE_SECONDS)
                return answer
            if answer.status_code not in {409, 503} or "retry-after" not in answer.headers:
                break
            await asyncio.sleep(int(answer.headers["retry-after"]))
        self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return None


async def start(rig: Rig, command: str) -> Running:
    """Start a process and wait until it is ready."""
    port = free_port()
    # However slow this machine is, an EMR that answers is not given up and called again.
    process = await rig.run(command, "--port", str(port), forward_timeout_seconds="30")
    started = Running(process, f"http://127.0.0.1:{port}")
    rig.running.append(started)
    async with httpx2.AsyncClient(base_url=started.url, trust_env=False) as http:

        async def is_ready() -> bool:
            assert process.returncode is None, f"{command} ended: {process.returncode}"
            with contextlib.suppress(httpx2.HTTPError):
                return (await http.get("/health/ready")).is_success
            return False

        await until(is_ready, START_SECONDS)
    return started


def port_of(running: Running) -> int:
    return int(running.url.rpartition(":")[2])


async def roll(rig: Rig, balancer: Balancer, service: Running, worker: Running) -> list[Running]:
    """SIGTERM to both, then others in their place; returns these once the old ones have ended."""
    for old in (service, worker):
        old.process.send_signal(signal.SIGTERM)
    fresh = await asyncio.gather(start(rig, "serve"), start(rig, "worker"))
    balancer.pods.append(port_of(fresh[0]))
    assert [await asyncio.wait_for(old.process.wait(), 35) for old in (service, worker)] == [0, 0]
    balancer.pods.remove(port_of(service))
    return list(fresh)


@pytest.mark.timeout(300)  # twelve starts of processes, beside whatever else the machine does
async def test_a_rolling_restart_under_load_fails_no_call(rig: Rig) -> None:
    async with balanced(rig) as balancer:
        commands = ("serve", "worker", "serve", "worker")
        first = await asyncio.gather(*(start(rig, command) for command in commands))
        pairs = [first[:2], first[2:]]
        balancer.pods += [port_of(service) for service, _ in pairs]
        await rig.register_emr(await rig.client(pairs[0][0]))
        load = Load(rig, balancer.url)
        emrs = [asyncio.create_task(load.dictate()) for _ in range(EMRS)]

        async def has_begun() -> bool:
            return len(load.dictations) >= EMRS

        await until(has_begun)
        for _ in range(ROLLS):
            for place, (service, worker) in enumerate(pairs):
                pairs[place] = await roll(rig, balancer, service, worker)
        load.is_over = True
        await asyncio.gather(*emrs)
        assert load.failures == []
        assert len(load.dictations) > 2 * EMRS
        assert len(set(load.dictations)) == len(load.dictations)

        received = await rig.received(len(load.dictations))
        delivered = Counter(entry["body"]["data"]["session_id"] for entry in received)
        assert delivered - Counter(load.dictations) == {}  # nothing twice
        assert Counter(load.dictations) - delivered == {}  # nothing lost
        sessions = rig.vendor_app.state.vendor.sessions
        assert sorted(sessions) == sorted(load.dictations)
        for session in sessions.values():
            assert (session.creates, len(session.end_bodies)) == (1, 1), session.session_id
            assert dict(session.gets) == {"eka_emr_template": 1}, session.session_id
