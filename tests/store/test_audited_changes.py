"""By construction: no change of a tenant's rows commits without its audit entry."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec import Struct

from schemas.destinations import DestinationChange, DestinationCreate
from schemas.tenants import SessionDefaults
from service.domain.api_keys.changes import ApiKeys
from service.domain.deliveries.recovery import Deliveries
from service.domain.destinations.changes import Destinations
from service.domain.ids import KeyId
from service.domain.tenants.changes import RetentionChange, Tenants
from service.domain.vendor_account_changes import VendorAccounts
from service.domain.vendor_accounts import AccountChange, Credentials
from tests.support.makers import NOTE, make_answer
from tests.support.store_house import House

REQUEST = DestinationCreate(url="https://emr.example/other")
ACCOUNT = AccountChange(credentials=Credentials(token="t"))
AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


class Scene(Struct):
    """A tenant with a row for every change: a key, an account, a destination, a dead delivery."""

    house: House
    key_id: KeyId
    destination: Any
    delivery: Any


CHANGES: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "Tenants.add": lambda s: Tenants(s.house.stores.tenants).add("other", SessionDefaults(), ACCOUNT),
    "Tenants.change_retention": lambda s: Tenants(s.house.stores.tenants).change_retention(
        s.house.tenant_id, RetentionChange(content_days=3)
    ),
    "Tenants.change_keep_audio": lambda s: Tenants(s.house.stores.tenants).change_keep_audio(
        s.house.tenant_id, "7"
    ),
    "ApiKeys.add": lambda s: ApiKeys(s.house.stores.api_keys).add(s.house.tenant_id, "emr"),
    "ApiKeys.revoke": lambda s: ApiKeys(s.house.stores.api_keys).revoke(s.house.tenant_id, s.key_id),
    "VendorAccounts.change": lambda s: s.house.accounts.change(
        s.house.tenant_id, AccountChange(credentials=Credentials(token="other")), force=False
    ),
    "VendorAccounts.clear": lambda s: s.house.accounts.clear(s.house.tenant_id),
    "Destinations.add": lambda s: s.house.destinations.add(s.house.actor, REQUEST),
    "Destinations.add_once": lambda s: s.house.destinations.add_once(s.house.actor, REQUEST, "key"),
    "Destinations.change": lambda s: s.house.destinations.change(
        s.house.actor, s.destination.id, DestinationChange(enabled=False)
    ),
    "Destinations.rotate_secret": lambda s: s.house.destinations.rotate_secret(
        s.house.actor, s.destination.id, 60
    ),
    "Destinations.remove": lambda s: s.house.destinations.remove(s.house.actor, s.destination.id),
    "Deliveries.retry": lambda s: s.house.deliveries.retry(s.house.actor, s.delivery.id),
    "Deliveries.confirm": lambda s: s.house.deliveries.confirm(s.house.actor, s.delivery.id, "NOTE-1"),
    "Deliveries.test": lambda s: s.house.deliveries.test(s.house.actor, s.destination.id, AN_HOUR_AGO),
    "Deliveries.recover": lambda s: s.house.deliveries.recover(s.house.actor, s.destination.id, AN_HOUR_AGO),
}
ACTIONS = {
    "Tenants.add": "tenant.created",
    "Tenants.change_retention": "retention.changed",
    "Tenants.change_keep_audio": "tenant.changed",
    "ApiKeys.add": "key.created",
    "ApiKeys.revoke": "key.revoked",
    "VendorAccounts.change": "account.changed",
    "VendorAccounts.clear": "account.cleared",
    "Destinations.add": "destination.created",
    "Destinations.add_once": "destination.created",
    "Destinations.change": "destination.changed",
    "Destinations.rotate_secret": "destination.secret_rotated",
    "Destinations.remove": "destination.removed",
    "Deliveries.retry": "delivery.retried",
    "Deliveries.confirm": "delivery.confirmed",
    "Deliveries.test": "destination.tested",
    "Deliveries.recover": "destination.recovered",
}


@pytest.fixture
async def scene(house: House) -> Scene:
    destination = await house.add_destination()
    await house.finish(NOTE)
    (job,) = await house.claim_deliveries()
    await house.record(job, make_answer(422), status="dead", reason="http_422")
    key = await ApiKeys(house.stores.api_keys).add(house.tenant_id, "emr")
    await house.accounts.change(house.tenant_id, ACCOUNT, force=False)
    return Scene(house, KeyId(key.id), destination, job)


async def all_rows(connection: asyncpg.Connection) -> dict[str, list[str]]:
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: sorted(row[0] for row in await connection.fetch(f'SELECT t::text FROM "{name}" t'))
        for name in (table["tablename"] for table in tables)
    }


async def refuse_entries(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no entry'; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_whose_entry_fails_did_not_happen(scene: Scene, name: str) -> None:
    before = await all_rows(scene.house.connection)
    await refuse_entries(scene.house.connection)
    with pytest.raises(asyncpg.RaiseError, match="no entry"):
        await CHANGES[name](scene)
    assert await all_rows(scene.house.connection) == before


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_writes_one_entry(scene: Scene, name: str) -> None:
    before = await scene.house.value("SELECT max(id) FROM audit")
    await CHANGES[name](scene)
    entries = await scene.house.connection.fetch("SELECT * FROM audit WHERE id > $1", before)
    assert [(entry["actor"], entry["action"]) for entry in entries] == [("cli", ACTIONS[name])]


def test_every_change_is_tried() -> None:
    kinds = (Tenants, ApiKeys, VendorAccounts, Destinations, Deliveries)
    assert set(CHANGES) == {
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, function in vars(kind).items()
        if inspect.iscoroutinefunction(function) and not name.startswith("_")
    }
