"""The real processes of a hospital's installation, which a test may kill."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2

from service.sandbox.emr.app import create_emr
from service.sandbox.serving import serve_app
from service.sandbox.vendor.app import Endpoint, VendorSettings, create_vendor
from service.sandbox.vendor.characters import CharacterName
from tests.support.bridge import WEBHOOK_SECRET, add_tenant, encoded_key, free_port, make_settings
from tests.support.characters import login_environment
from tests.support.forked import ForkedProcess, can_fork, start_forked

START_SECONDS = 30.0


async def until(condition: Any, seconds: float = 20.0) -> Any:
    """Return what an async condition answers once it is true; fails the test when it stays false."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if found := await condition():
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"still not so after {seconds:g} seconds")


@dataclass
class Running:
    """One process of ours."""

    process: asyncio.subprocess.Process | ForkedProcess
    url: str

    async def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop and return its exit status."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 35)


@dataclass
class Rig:
    """Two services and a worker are one `await rig.serve()` and `await rig.worker()` away."""

    environment: dict[str, str]
    vendor_url: str
    emr_url: str
    vendor: httpx2.AsyncClient
    emr: httpx2.AsyncClient
    key: str
    tenant_id: str
    stack: AsyncExitStack
    vendor_app: Any
    forks: bool = False
    running: list[Running] = field(default_factory=list)
    log: Path | None = None

    async def serve(self, workers: int = 1, **settings: str) -> Running:
        """Start a service of so many processes and wait until it answers."""
        options = ("--workers", str(workers)) if workers > 1 else ()
        return await self._start("serve", settings, *options)

    async def worker(self, **settings: str) -> Running:
        """Start a worker process and wait until it answers."""
        return await self._start("worker", settings)

    async def _start(self, command: str, settings: dict[str, str], *options: str) -> Running:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        if command == "serve":
            self.vendor_app.state.vendor.settings.webhook_endpoints = [
                Endpoint(url=f"{url}/webhooks/eka", secret=WEBHOOK_SECRET)
            ]
        process = await self.run(command, "--port", str(port), *options, **settings)
        started = Running(process, url)
        self.running.append(started)
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:

            async def is_live() -> bool:
                assert process.returncode is None, f"{command} ended: {process.returncode}"
                try:
                    return (await http.get(f"{url}/health/live")).is_success
                except httpx2.HTTPError:
                    return False

            await until(is_live, START_SECONDS)
        return started

    async def run(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process | ForkedProcess:
        """Start `ekabridge …` with these settings; forked, if the test's processes may be."""
        changed = {f"EKABRIDGE_{name.upper()}": value for name, value in settings.items()}
        environment = self.environment | changed
        path = self.log or Path(os.devnull)
        # A supervisor starts processes of its own, which a forked one may not.
        if self.forks and "--workers" not in arguments and can_fork(environment):
            return start_forked(arguments, environment, path, path)
        with path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", *arguments, env=environment, stdout=log, stderr=log
            )

    async def client(self, service: Running, seconds: float = 70) -> httpx2.AsyncClient:
        """A client of that service with the tenant's key."""
        return await self.stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=service.url,
                headers={"authorization": f"Bearer {self.key}"},
                timeout=seconds,
                trust_env=False,
            )
        )

    async def register_emr(self, api: httpx2.AsyncClient) -> None:
        """Make the EMR a destination."""
        answer = await api.post("/v1/destinations", json={"url": f"{self.emr_url}/hooks"})
        assert answer.status_code == 201, answer.text
        await self.emr.post("/_control/secrets", json={"secrets": [answer.json()["secret"]]})

    async def received(self, count: int = 1, seconds: float = 25) -> list[dict[str, Any]]:
        """Wait until the EMR received so many deliveries."""
        answer = await self.emr.get("/_control/received", params={"count": count, "wait": seconds})
        return answer.json()["items"] if isinstance(answer.json(), dict) else answer.json()

    async def seen(self, session_id: str) -> dict[str, Any]:
        """What the vendor witnessed of a session."""
        return (await self.vendor.get(f"/_control/sessions/{session_id}")).json()

    async def fault(self, path_regex: str, **fault: Any) -> None:
        """Make the vendor misbehave."""
        answer = await self.vendor.post("/_control/faults", json={"path_regex": path_regex, **fault})
        answer.raise_for_status()


async def dictate(api: httpx2.AsyncClient, chunks: int = 2, **fields: Any) -> str:
    """Create, send and end a session; return its id."""
    created = await api.post("/v1/sessions", json=fields)
    assert created.status_code == 201, created.text
    session_id = str(created.json()["id"])
    await speak(api, session_id, chunks)
    return session_id


async def speak(api: httpx2.AsyncClient, session_id: str, chunks: int = 2) -> None:
    """Send and end a session."""
    for sequence in range(chunks):
        stored = await api.put(
            f"/v1/sessions/{session_id}/audio/{sequence}",
            content=f"audio {sequence}".encode(),
            headers={"content-type": "audio/wav"},
        )
        assert stored.status_code == 200, stored.text
    ended = await api.post(f"/v1/sessions/{session_id}/end", json={"chunks": chunks})
    assert ended.status_code == 202, ended.text


@asynccontextmanager
async def open_rig(
    database_url: str, redis_url: str, *, character: CharacterName = "hosted", forks: bool = False
) -> AsyncIterator[Rig]:
    """Start the stand-ins, add a tenant; every process that the test started is killed at the end.

    With `forks` the processes do not import anything: for tests of neither their start nor their memory.
    """
    async with AsyncExitStack() as stack:
        vendor_app = create_vendor(VendorSettings(character=character, processing_seconds=0.05))
        vendor_url = await stack.enter_async_context(serve_app(vendor_app))
        emr_url = await stack.enter_async_context(serve_app(create_emr()))
        settings = make_settings(database_url, redis_url)
        tenant_id, key = await add_tenant(settings, "first", "admin", templates=["eka_emr_template"])
        own = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "EKA_BASE_URL": vendor_url,
            **login_environment(character),
            "WEBHOOK_SECRETS": WEBHOOK_SECRET,
            "ENCRYPTION_KEYS": encoded_key(),
            "ALLOW_PRIVATE_DESTINATIONS": "true",
            "SWEEP_INTERVAL_SECONDS": "0.1",
            "FORWARD_SCHEDULE_SECONDS": "0.1,0.2,0.5,1,1,1,1,1",
            "FORWARD_TIMEOUT_SECONDS": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EKABRIDGE_")}
        rig = Rig(
            environment=inherited | {f"EKABRIDGE_{name}": value for name, value in own.items()},
            vendor_url=vendor_url,
            emr_url=emr_url,
            vendor=await stack.enter_async_context(httpx2.AsyncClient(base_url=vendor_url, timeout=60)),
            emr=await stack.enter_async_context(httpx2.AsyncClient(base_url=emr_url, timeout=60)),
            key=key,
            tenant_id=tenant_id,
            stack=stack,
            vendor_app=vendor_app,
            forks=forks,
        )
        try:
            yield rig
        finally:
            for each in rig.running:
                if each.process.returncode is None:
                    await each.kill()
