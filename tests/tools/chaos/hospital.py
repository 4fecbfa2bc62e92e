"""An installation to break: our processes behind proxies, PostgreSQL and Redis of its own, both stand-ins."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil

from service.sandbox.emr.app import create_emr
from service.sandbox.serving import serve_app
from service.sandbox.vendor.app import Endpoint, VendorSettings, create_vendor
from service.sandbox.vendor.characters import CharacterName
from service.store.migrate import migrate
from tests.support.bridge import WEBHOOK_SECRET, add_tenant, encoded_key, free_port, make_settings
from tests.support.characters import login_environment
from tests.support.forked import ForkedProcess, start_forked
from tests.tools.chaos.doors import Door, EmrDoor
from tests.tools.chaos.points import Watch
from tests.tools.chaos.proxies import DatabaseProxy, Proxy, open_port, open_unix
from tests.tools.chaos.servers import ChaosServers

START_SECONDS = 60.0
FORWARD_TIMEOUT_SECONDS = 5.0
_OWN = {
    "WEBHOOK_SECRETS": WEBHOOK_SECRET,
    "ENCRYPTION_KEYS": encoded_key(),
    "ALLOW_PRIVATE_DESTINATIONS": "true",
    "SWEEP_INTERVAL_SECONDS": "0.2",
    # A session whose webhook was lost is asked for soon.
    "RECONCILE_AFTER_SECONDS": "2",
    # So long that no fault of a run uses it up, and longer than the furthest jump of PostgreSQL's clock.
    "FORWARD_SCHEDULE_SECONDS": ",".join(["0.2", "0.5", *["1"] * 20, *["3"] * 300, *["3600"] * 20]),
    "FORWARD_TIMEOUT_SECONDS": f"{FORWARD_TIMEOUT_SECONDS:g}",
}


@dataclass
class Life:
    """One process of a slot: how it ended, and whether we had it end."""

    process: asyncio.subprocess.Process | ForkedProcess
    ended_by: str | None = None
    ended_at: float | None = None
    was_stopped: bool = False


@dataclass
class Slot:
    """A place for one process of ours: its port, its proxies and its clock outlive the process."""

    name: str
    role: str
    port: int
    database: DatabaseProxy
    redis: Proxy
    environment: dict[str, str]
    log: Path
    lives: list[Life] = field(default_factory=list)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        """Where the process answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return bool(self.lives) and self.lives[-1].process.returncode is None

    def end(self, number: int, why: str) -> None:
        """Send a signal that ends the process; nothing when it has ended."""
        life = self.lives[-1] if self.lives else None
        if life is None or life.process.returncode is not None:
            return
        life.was_stopped |= number == signal.SIGTERM
        if number == signal.SIGKILL or life.ended_by is None:
            life.ended_by, life.ended_at = why, time.time()
        with suppress(ProcessLookupError):
            os.kill(life.process.pid, number)


class Hospital:
    """What the chaos suite breaks, and how it is put together again."""

    def __init__(
        self, servers: ChaosServers, folder: Path, character: CharacterName, *, clocks_jump: bool
    ) -> None:
        self.servers = servers
        self._clocks_jump = clocks_jump
        self.folder = folder
        self.slots: dict[str, Slot] = {}
        self.watch = Watch(self.kill, lambda name: self.slots[name].role if name in self.slots else "")
        vendor_settings = VendorSettings(
            character=character, processing_seconds=0.05, session_seconds=48 * 3600.0
        )
        self.vendor_app = create_vendor(vendor_settings)
        self.vendor = self.vendor_app.state.vendor
        self.emr = EmrDoor(create_emr(), self.watch, self._find_caller)
        self.emr_url = ""
        self.key = ""
        self.secret = ""
        self.http = httpx2.AsyncClient(trust_env=False, timeout=70)
        self._environment: dict[str, str] = {}
        # The longest time for which this process, with both stand-ins and all proxies, did not get to work.
        self.lag_seconds = 0.0

    async def open(self, stack: AsyncExitStack, slots: dict[str, str]) -> None:
        """Migrate, serve the stand-ins, start the processes, make the EMR a destination."""
        await migrate(self.servers.database_url)
        stack.push_async_callback(self.vendor.close)
        self.emr_url = await stack.enter_async_context(serve_app(self.emr))
        await stack.enter_async_context(self.http)
        settings = make_settings(self.servers.database_url, f"redis://127.0.0.1:{self.servers.redis_port}/0")
        _, self.key = await add_tenant(settings, "hospital", "admin")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EKABRIDGE_")}
        own = _OWN | login_environment(self.vendor.settings.character)
        self._environment = inherited | {f"EKABRIDGE_{name}": value for name, value in own.items()}
        for name, role in slots.items():
            # An address of the vendor for each, so that it is known who calls.
            door = Door(self.vendor_app, self.watch, partial(_itself, name))
            vendor_url = await stack.enter_async_context(serve_app(door, lifespan="off"))
            self.slots[name] = await self._make_slot(name, role, vendor_url)
        stack.push_async_callback(self._close)
        beat = asyncio.create_task(self._measure_lag())
        stack.callback(beat.cancel)
        await asyncio.gather(*(self.start(name) for name in self.slots))
        self.send_webhooks_to(next(slot for slot in self.slots.values() if slot.role == "service"))
        answer = await self.ask("POST", "/v1/destinations", json={"url": f"{self.emr_url}/hooks"})
        self.secret = answer.json()["secret"]
        self.watch.seen.clear()

    async def _measure_lag(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.1)
            self.lag_seconds = max(self.lag_seconds, time.monotonic() - began - 0.1)

    async def _make_slot(self, name: str, role: str, vendor_url: str) -> Slot:
        database = DatabaseProxy(name, self.watch, partial(open_unix, self.servers.socket))
        redis = Proxy(name, self.watch, lambda: open_port(self.servers.redis_port))
        await database.start()
        await redis.start()
        environment = {
            "EKABRIDGE_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{database.port}/postgres?sslmode=disable",
            "EKABRIDGE_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "EKABRIDGE_EKA_BASE_URL": vendor_url,
        }
        log = self.folder / f"{name}.log"
        return Slot(name, role, free_port(), database, redis, environment, log)

    async def _close(self) -> None:
        for slot in self.slots.values():
            slot.end(signal.SIGKILL, "closed")
            if slot.lives:
                await slot.lives[-1].process.wait()
            await slot.database.stop()
            await slot.redis.stop()

    # -- Processes --------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Start the process of a slot, unless it runs, and wait until it answers."""
        slot = self.slots[name]
        async with slot.starting:
            if slot.is_running:
                return
            process = await self._start_process(slot)
            slot.lives.append(Life(process))
            deadline = time.monotonic() + START_SECONDS
            while process.returncode is None and time.monotonic() < deadline:
                with suppress(httpx2.HTTPError):
                    if (await self.http.get(f"{slot.url}/health/live", timeout=5)).is_success:
                        return
                await asyncio.sleep(0.05)
            if slot.lives[-1].ended_by is None:
                raise AssertionError(f"{name} did not start: {slot.log.read_text()[-2000:]}")

    async def _start_process(self, slot: Slot) -> asyncio.subprocess.Process | ForkedProcess:
        arguments = ("serve" if slot.role == "service" else "worker", "--port", str(slot.port))
        environment = self._environment | slot.environment
        if not self._clocks_jump:
            return start_forked(arguments, environment, slot.log, slot.log)
        clock = self.servers.clocks.environment(slot.name)
        with slot.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.cli.main", *arguments),
                env=environment | clock,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """kill -9, at this instant."""
        self.slots[name].end(signal.SIGKILL, "kill")

    async def gone(self, name: str) -> None:
        """Wait until the process of a slot has ended."""
        await self.slots[name].lives[-1].process.wait()

    def _find_caller(self, port: int) -> str | None:
        """Whose process makes a call from that port."""
        for slot in self.slots.values():
            if slot.role != "worker" or not slot.is_running:
                continue
            with suppress(psutil.Error):
                known = psutil.Process(slot.lives[-1].process.pid).net_connections("tcp4")
                if any(each.laddr and each.laddr.port == port for each in known):
                    return slot.name
        return None

    def send_webhooks_to(self, slot: Slot) -> None:
        """Have the vendor send its webhooks to that service."""
        endpoint = Endpoint(url=f"{slot.url}/webhooks/eka", secret=WEBHOOK_SECRET)
        self.vendor.settings.webhook_endpoints = [endpoint]

    # -- Looking in -------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """Make a call to whichever service answers, until one does."""
        services = [slot for slot in self.slots.values() if slot.role == "service"]
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for slot in services:
                with suppress(httpx2.HTTPError):
                    headers = {"authorization": f"Bearer {self.key}"}
                    answer = await self.http.request(method, slot.url + path, headers=headers, **request)
                    if answer.status_code < 500:
                        return answer
            await asyncio.sleep(0.1)
        raise AssertionError(f"no service answered {method} {path}")

    async def rows(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Read from the database, past the proxies."""
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def let_leases_end(self, role: str) -> None:
        """Let time pass for what a killed process of that role held, and only for that."""
        connection = await asyncpg.connect(self.servers.database_url)
        try:
            for statement in _LEASES_OF[role]:
                await connection.execute(statement)
        finally:
            await connection.close()


def _itself(slot: str, _: int) -> str:
    return slot


_SERVICE_LEASES = (
    "UPDATE sessions SET owed_next_at = now() WHERE owed_lease IS NOT NULL",
    "UPDATE sessions SET change_until = now() WHERE change_lease IS NOT NULL",
    "UPDATE chunks SET lease_until = now() WHERE status = 'sending'",
    "UPDATE idempotency_keys SET lease_until = now() WHERE lease IS NOT NULL",
    "UPDATE fetches SET next_at = now() WHERE lease IS NOT NULL AND asked = 'asking'",
    "UPDATE streams SET lease_until = now() WHERE lease IS NOT NULL",
    "UPDATE vendor_tokens SET lease_until = now() WHERE lease IS NOT NULL",
)
_WORKER_LEASES = (
    "UPDATE sessions SET owed_next_at = now() WHERE owed_lease IS NOT NULL",
    "UPDATE fetches SET next_at = now() WHERE lease IS NOT NULL",
    "UPDATE deliveries SET next_at = now() WHERE lease IS NOT NULL AND status = 'pending'",
    "UPDATE vendor_tokens SET lease_until = now() WHERE lease IS NOT NULL",
    "UPDATE leases SET until = now()",
)
_LEASES_OF = {
    "service": _SERVICE_LEASES,
    "worker": _WORKER_LEASES,
}


@asynccontextmanager
async def open_hospital(
    servers: ChaosServers,
    folder: Path,
    slots: dict[str, str],
    character: CharacterName = "hosted",
    *,
    clocks_jump: bool = True,
) -> AsyncIterator[Hospital]:
    """Start everything; all of it is killed at the end. `slots`: names and roles of our processes.

    A process whose clock cannot jump is forked, which takes a fraction of the time.
    """
    hospital = Hospital(servers, folder, character, clocks_jump=clocks_jump)
    async with AsyncExitStack() as stack:
        await hospital.open(stack, slots)
        yield hospital
