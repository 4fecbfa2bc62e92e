"""A whole bridge for a test: real PostgreSQL and Redis, stand-in vendor and EMR, service, worker."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import asyncpg
import httpx2
import msgspec

from schemas.tenants import SessionDefaults
from service.app import create_app
from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.api_keys.models import Principal
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from service.http_server.server import CONNECTION_OPTIONS, listen
from service.sandbox.emr.app import create_emr
from service.sandbox.serving import serve_app
from service.sandbox.stack import free_port
from service.sandbox.vendor.app import Endpoint, VendorSettings, create_vendor
from service.sandbox.vendor.characters import CharacterName
from service.settings import Settings
from service.store.api_keys import ApiKeyRows
from service.worker import WorkerProcess
from tests.support.characters import login_settings

WEBHOOK_SECRET = "vendor-signing-key"
ENCRYPTION_KEY = bytes(range(32))


@dataclass
class Bridge:
    """What a test talks to. `api` holds an EMR key of the first tenant, `admin` an admin key of it."""

    settings: Settings
    url: str
    vendor_url: str
    emr_url: str
    api: httpx2.AsyncClient
    admin: httpx2.AsyncClient
    vendor: httpx2.AsyncClient
    emr: httpx2.AsyncClient
    database: asyncpg.Connection
    tenant_id: TenantId
    stack: AsyncExitStack
    workers: list["RunningWorker"] = field(default_factory=list)

    async def create(self, **fields: Any) -> dict[str, Any]:
        """Create a session; fails the test unless it is 201."""
        answer = await self.api.post("/v1/sessions", json=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def put(
        self, session_id: str, sequence: int, content: bytes = b"audio", media_type: str = "audio/wav"
    ) -> httpx2.Response:
        """Send one chunk."""
        return await self.api.put(
            f"/v1/sessions/{session_id}/audio/{sequence}",
            content=content,
            headers={"content-type": media_type},
        )

    async def end(self, session_id: str, **fields: Any) -> httpx2.Response:
        """End a session."""
        return await self.api.post(f"/v1/sessions/{session_id}/end", json=fields)

    async def dictate(self, chunks: int = 2, **fields: Any) -> str:
        """Create, send and end a session; return its id."""
        session = await self.create(**fields)
        for sequence in range(chunks):
            answer = await self.put(session["id"], sequence, f"audio {sequence}".encode())
            assert answer.status_code == 200, answer.text
        answer = await self.end(session["id"], chunks=chunks)
        assert answer.status_code == 202, answer.text
        return session["id"]

    async def session(self, session_id: str) -> dict[str, Any]:
        """Read a session."""
        answer = await self.api.get(f"/v1/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def reach(self, session_id: str, *statuses: str, seconds: float = 20) -> dict[str, Any]:
        """Wait until the session has one of these statuses."""
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            answer = await self.api.get(f"/v1/sessions/{session_id}", params={"wait": 1})
            if answer.json()["status"] in statuses:
                return answer.json()
        raise AssertionError(f"session is {answer.json()['status']}, not {statuses}")

    async def received(self, count: int = 1, seconds: float = 20, **wanted: Any) -> list[dict[str, Any]]:
        """Wait until the EMR received so many deliveries (name=, type=, webhook_id= narrow it)."""
        answer = await self.emr.get("/_control/received", params={"count": count, "wait": seconds, **wanted})
        return answer.json()["items"] if isinstance(answer.json(), dict) else answer.json()

    async def add_destination(self, url: str | None = None, **fields: Any) -> dict[str, Any]:
        """Register the EMR as a destination; the EMR learns the secret."""
        answer = await self.admin.post(
            "/v1/destinations", json={"url": url or f"{self.emr_url}/hooks", **fields}
        )
        assert answer.status_code == 201, answer.text
        await self.emr.post("/_control/secrets", json={"secrets": [answer.json()["secret"]]})
        return answer.json()

    async def vendor_settings(self, **settings: Any) -> None:
        """Change how the vendor behaves."""
        (await self.vendor.patch("/_control/settings", json=settings)).raise_for_status()

    async def fault(self, path_regex: str, **fault: Any) -> None:
        """Make the vendor misbehave."""
        (
            await self.vendor.post("/_control/faults", json={"path_regex": path_regex, **fault})
        ).raise_for_status()

    async def calls(self, path_regex: str, method: str | None = None) -> int:
        """Count the calls that the vendor got."""
        wanted = {"path_regex": path_regex} | ({"method": method} if method else {})
        return (await self.vendor.get("/_control/calls/count", params=wanted)).json()["count"]

    async def seen(self, session_id: str) -> dict[str, Any]:
        """What the vendor witnessed of a session."""
        return (await self.vendor.get(f"/_control/sessions/{session_id}")).json()

    async def tenant(self, name: str = "other", **defaults: Any) -> httpx2.AsyncClient:
        """Add another tenant and return a client with an EMR key of it."""
        _, key = await add_tenant(self.settings, name, "emr", **defaults)
        return await self.client(key)

    async def client(self, key: str | None) -> httpx2.AsyncClient:
        """Return a client of the service with that key."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.stack.enter_async_context(
            httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=70, trust_env=False)
        )

    async def start_worker(self, **changes: Any) -> "RunningWorker":
        """Start a worker in this process."""
        worker = RunningWorker(msgspec.structs.replace(self.settings, **changes))
        self.workers.append(worker)
        self.stack.push_async_callback(worker.stop)
        return worker


class RunningWorker:
    """A worker inside the test's own process."""

    def __init__(self, settings: Settings) -> None:
        self._stopping = asyncio.Event()
        process = WorkerProcess(settings, listening=listen("127.0.0.1", 0), stopping=self._stopping)
        self._task = asyncio.create_task(process.run())

    async def stop(self) -> None:
        """Stop it in order."""
        self._stopping.set()
        await self._task


async def add_tenant(settings: Settings, name: str, role: Any, **defaults: Any) -> tuple[TenantId, str]:
    """Add a tenant with one key; return its id and the key."""
    async with open_stores(settings) as stores:
        tenant = await Tenants(stores.tenants).add(name, msgspec.convert(defaults, SessionDefaults))
        key = await ApiKeys(stores.api_keys).add(TenantId(tenant.id), role)
        return TenantId(tenant.id), str(key.key)


async def principal_of(api_keys: ApiKeyRows, key: str) -> Principal | None:
    """Who a key is, as the rows say."""
    hashed = await api_keys.hash_of(key)
    return (await api_keys.principals([hashed])).get(hashed) if hashed else None


async def add_key(settings: Settings, tenant_id: TenantId, role: Any) -> str:
    """Add a key to a tenant and return it."""
    async with open_stores(settings) as stores:
        return str((await ApiKeys(stores.api_keys).add(tenant_id, role)).key)


def make_settings(database_url: str, redis_url: str, **changes: Any) -> Settings:
    """Settings for a test: quick to retry, private destinations allowed."""
    values: dict[str, Any] = {
        "database_url": database_url,
        "redis_url": redis_url,
        "encryption_keys": (ENCRYPTION_KEY,),
        "webhook_secrets": (WEBHOOK_SECRET,),
        "eka_client_id": "sandbox",
        "eka_client_secret": "sandbox-secret",
        "allow_private_destinations": True,
        "forward_schedule_seconds": (0.05, 0.1, 0.2),
        "sweep_interval_seconds": 0.1,
        "voice_origins": ("https://emr.example",),
    }
    return Settings(**(values | changes))


@asynccontextmanager
async def open_bridge(
    database_url: str, redis_url: str, *, character: CharacterName = "hosted", **changes: Any
) -> AsyncIterator[Bridge]:
    """Start everything but the worker, which a test starts when it wants it."""
    async with AsyncExitStack() as stack:
        vendor_app = create_vendor(VendorSettings(character=character, processing_seconds=0.05))
        vendor_url = await stack.enter_async_context(serve_app(vendor_app))
        emr_url = await stack.enter_async_context(serve_app(create_emr()))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        settings = make_settings(
            database_url,
            redis_url,
            **({"eka_base_url": vendor_url, "public_url": url} | login_settings(character) | changes),
        )
        tenant_id, key = await add_tenant(settings, "first", "emr", templates=["eka_emr_template"])
        admin_key = await add_key(settings, tenant_id, "admin")
        await stack.enter_async_context(serve_app(create_app(settings), port=port, **CONNECTION_OPTIONS))
        vendor_app.state.vendor.settings.webhook_endpoints = [
            Endpoint(url=f"{url}/webhooks/eka", secret=WEBHOOK_SECRET)
        ]
        database = await asyncpg.connect(database_url)
        stack.push_async_callback(database.close)

        async def client(base_url: str, key: str | None = None) -> httpx2.AsyncClient:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return await stack.enter_async_context(
                httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=70, trust_env=False)
            )

        yield Bridge(
            settings=settings,
            url=url,
            vendor_url=vendor_url,
            emr_url=emr_url,
            api=await client(url, key),
            admin=await client(url, admin_key),
            vendor=await client(vendor_url),
            emr=await client(emr_url),
            database=database,
            tenant_id=tenant_id,
            stack=stack,
        )


def encoded_key(key: bytes = ENCRYPTION_KEY) -> str:
    """An encryption key as the environment carries it."""
    return base64.b64encode(key).decode()


def random_bytes(size: int) -> bytes:
    """Bytes that compress to nothing and repeat nowhere."""
    return secrets.token_bytes(size)
