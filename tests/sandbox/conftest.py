from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from service.sandbox.emr.app import create_emr
from service.sandbox.serving import serve_app
from service.sandbox.vendor.app import VendorSettings, create_vendor

TOKEN = {"Authorization": "Bearer sandbox-token"}
CREATE = {
    "upload_type": "chunked",
    "communication_protocol": "http",
    "language_hint": ["en"],
    "templates": [],
}


@dataclass
class Bench:
    """One vendor, one EMR, and a client that speaks to the vendor with a good token."""

    url: str
    emr_url: str
    client: httpx2.AsyncClient

    async def create(self, **fields: Any) -> dict[str, Any]:
        answer = await self.client.post("/voice/v1/sessions", json={**CREATE, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def upload(
        self, session_id: str, name: str, data: bytes, mime: str = "audio/wav"
    ) -> httpx2.Response:
        path = f"/voice/v1/sessions/{session_id}/audio/{name}"
        return await self.client.post(path, content=data, headers={"Content-Type": mime})

    async def end(self, session_id: str, count: int = 1) -> httpx2.Response:
        return await self.client.post(
            f"/voice/v1/sessions/{session_id}/end", json={"audio_files_sent": count}
        )

    async def get(self, session_id: str, **query: str) -> httpx2.Response:
        return await self.client.get(f"/voice/v1/sessions/{session_id}", params=query)

    async def witness(self, session_id: str) -> dict[str, Any]:
        return (await self.client.get(f"/_control/sessions/{session_id}")).json()

    async def settle(self, **settings: Any) -> None:
        answer = await self.client.patch("/_control/settings", json=settings)
        assert answer.status_code == 200, answer.text

    async def fault(self, **fault: Any) -> None:
        answer = await self.client.post("/_control/faults", json=fault)
        assert answer.status_code == 201, answer.text

    async def count(self, **query: Any) -> int:
        return (await self.client.get("/_control/calls/count", params=query)).json()["count"]

    async def received(self, count: int, **query: Any) -> list[dict[str, Any]]:
        params = {"count": count, "wait": 5, **query}
        return (await self.client.get(f"{self.emr_url}/_control/received", params=params)).json()


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[tuple[str, str]]:
    settings = VendorSettings(processing_seconds=0.0, long_poll_seconds=5.0)
    async with serve_app(create_vendor(settings)) as vendor_url, serve_app(create_emr()) as emr_url:
        yield vendor_url, emr_url


@pytest.fixture(scope="session")
async def client(servers: tuple[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=servers[0], headers=TOKEN, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
async def bench(servers: tuple[str, str], client: httpx2.AsyncClient) -> Bench:
    url, emr_url = servers
    (await client.post("/_control/reset")).raise_for_status()
    (await client.post(f"{emr_url}/_control/reset")).raise_for_status()
    return Bench(url, emr_url, client)
