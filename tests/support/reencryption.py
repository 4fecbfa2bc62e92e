"""Rows to re-encrypt, and the re-encryption of all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from schemas.encryption_keys import ReencryptionPass
from service.bootstrap.container import Stores, open_stores
from service.store.encryption import Keyring
from tests.support.encrypted_rows import DETAILS, NEW, OLD, OTHER, settings_with
from tests.support.store_house import House, new_tenant

OF = {NEW: Keyring([NEW]).first, OLD: Keyring([OLD]).first, OTHER: Keyring([OTHER]).first}


@asynccontextmanager
async def open_house(
    url: str, connection: asyncpg.Connection, *keys: bytes, tenant: Any = None
) -> AsyncIterator[House]:
    async with open_stores(settings_with(url, *keys)) as stores:
        yield House(stores=stores, connection=connection, tenant_id=tenant or await new_tenant(stores))


async def reencrypt_all(stores: Stores) -> list[ReencryptionPass]:
    await stores.encryption_keys.begin()
    async with asyncio.timeout(30):
        while await stores.reencryption.step():
            pass
    return await stores.reencryption.passes()


async def many_sessions(house: House, count: int) -> None:
    await house.connection.execute(
        "INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages, "
        "expires_at, details_sealed) SELECT x.id, $1, 'default', 'created', 'chunked', 'dictation', 'pro', "
        "'{}', '{}', now(), x.sealed FROM unnest($2::text[], $3::bytea[]) AS x (id, sealed)",
        house.tenant_id,
        [f"ses_{number:024}" for number in range(count)],
        [
            house.stores.keyring.encrypt_json(DETAILS, f"session.details:ses_{number:024}")
            for number in range(count)
        ],
    )
