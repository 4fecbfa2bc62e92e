"""A bridge whose tenants have vendor accounts of their own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from schemas.tenants import SessionDefaults
from service.bootstrap.container import Stores, open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from service.domain.vendor_accounts import AccountChange, Credentials
from tests.support.api_calls import signature
from tests.support.bridge import Bridge, open_bridge

OWN_SECRET = "hospital-signing-key"


CLIENTS = {"sandbox": "sandbox-secret", "hospital": "hospital-secret", "clinic": "clinic-secret"}


OTHER_TOKENS = {"hospital-token": "hospital", "clinic-token": "clinic"}


class Two:
    """A bridge with two tenants: the first shares the default account, the second has its own."""

    def __init__(self, bridge: Bridge, stores: Stores, tenant_id: TenantId, api: httpx2.AsyncClient) -> None:
        self.bridge = bridge
        self.stores = stores
        self.tenant_id = tenant_id
        self.api = api

    async def at_vendor(self, token: str, session_id: str) -> int:
        """What the vendor answers for a session to whoever has that token."""
        answer = await self.bridge.vendor.get(
            f"/voice/v1/sessions/{session_id}", headers={"authorization": f"Bearer {token}"}
        )
        return answer.status_code

    async def start(self) -> str:
        """Create a session of the second tenant."""
        answer = await self.api.post("/v1/sessions", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def dictate(self) -> str:
        """Create, send and end one."""
        session_id = await self.start()
        sent = await self.api.put(
            f"/v1/sessions/{session_id}/audio/0", content=b"audio", headers={"content-type": "audio/wav"}
        )
        assert sent.status_code == 200, sent.text
        ended = await self.api.post(f"/v1/sessions/{session_id}/end", json={"chunks": 1})
        assert ended.status_code == 202, ended.text
        return session_id

    async def hook(self, event: Any, door: str | None = None, *, secret: str = OWN_SECRET) -> httpx2.Response:
        """Send a webhook to a door, by default the second tenant's."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        headers = {"content-type": "application/json"}
        if secret:
            headers["Eka-Webhook-Signature"] = signature(body, secret=secret)
        door = self.tenant_id if door is None else door
        return await self.bridge.api.post(f"/webhooks/eka/{door}", content=body, headers=headers)

    async def recorded(self, session_id: str) -> set[tuple[str, str]]:
        """The accounts for which events of a session were recorded, and in which phase."""
        rows = await self.bridge.database.fetch(
            "SELECT account, phase FROM webhook_events WHERE session_id = $1", session_id
        )
        return {(row["account"], row["phase"]) for row in rows}


def client_of(name: str) -> Credentials:
    return Credentials(client_id=name, client_secret=CLIENTS[name])


@asynccontextmanager
async def open_two(database_url: str, redis_url: str, *secrets: str, **changes: Any) -> AsyncIterator[Two]:
    async with (
        open_bridge(database_url, redis_url, **changes) as bridge,
        open_stores(bridge.settings) as stores,
    ):
        await bridge.vendor_settings(
            clients=CLIENTS, static_tokens=["sandbox-token", *OTHER_TOKENS], token_accounts=OTHER_TOKENS,
            webhooks_enabled=False,
        )  # fmt: skip
        own = AccountChange(credentials=client_of("hospital"), webhook_secrets=secrets)
        added = await Tenants(stores.tenants).add(
            "hospital", SessionDefaults(templates=["eka_emr_template"]), own
        )
        tenant_id = TenantId(added.id)
        key = await ApiKeys(stores.api_keys).add(tenant_id, "emr")
        yield Two(bridge, stores, tenant_id, await bridge.client(str(key.key)))
