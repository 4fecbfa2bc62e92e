"""Webhooks of made-up tenants: lookups that come at once share one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

from service.domain.ids import TenantId
from service.store.encryption import Keyring
from service.store.vendor_accounts import VendorAccountRows


class Slow:
    """A database that counts its queries, and knows no tenant."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def fetch(self, _: str, tenant_ids: list[str]) -> list[Any]:
        self.asked.append(tenant_ids)
        await asyncio.sleep(0)
        return []


async def test_made_up_tenants_that_come_at_once_cost_two_queries() -> None:
    database: Any = Slow()
    rows = VendorAccountRows(database, Keyring([bytes(32)]))
    found = await asyncio.gather(*(rows.own(TenantId(f"ten_{number:024d}")) for number in range(200)))
    assert found == [None] * 200
    assert len(database.asked) == 2
